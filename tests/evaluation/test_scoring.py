"""Scoring with a real tiny language model, against splices worked out context by context."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import NotEnoughTokens
from lmsae.evaluation.hooked import HookedDictionary, HookPoint
from lmsae.evaluation.measures import ON_TEXT, WITHOUT_TEXT
from lmsae.evaluation.scores import Breakdown, Score
from lmsae.evaluation.scoring import HeldOutText, score
from lmsae.geometry.config import Widths
from lmsae.lm import load, resolve
from lmsae.metrics.definitions import GROUPS, names_in
from lmsae.planning.catalog import CATALOG
from lmsae.text.tokens import TokenSet, TokenWriter, open_tokens
from tests.architectures import SAES, parts, randomize

VOCAB, WIDTH, CONTEXTS, CONTEXT_SIZE, SPECIAL = 31, 8, 7, 10, 0
HOOK, OTHER_HOOK = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """GPT-NeoX of two layers, with weights large enough that its predictions differ."""
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    folder = tmp_path_factory.mktemp("model")
    made = transformers.GPTNeoXForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    made.save_pretrained(folder)
    return load(resolve(str(folder)), backend="huggingface", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """Random text; a special token opens each context and stands in some of them."""
    folder = tmp_path_factory.mktemp("tokens")
    ids = np.random.default_rng(0).integers(1, VOCAB, (CONTEXTS, CONTEXT_SIZE))
    ids[:, 0] = ids[2, 5] = ids[4, 9] = SPECIAL
    writer = TokenWriter(folder, VOCAB)
    for split in ("train", "held_out"):
        writer.write_split(split, CONTEXTS, CONTEXT_SIZE, [(ids, ids)])
    special = {"bos_token_id": SPECIAL, "special_token_ids": [SPECIAL]}
    writer.write_attributes({"n_calibration_contexts": 1, "d_vocab": VOCAB, "counts": {}, **special})
    return open_tokens(folder)


@pytest.fixture(scope="module")
def ids(tokens: TokenSet) -> Tensor:
    return torch.from_numpy(tokens.held_out[:].astype("int64"))


@pytest.fixture(scope="module")
def mean(model: Any, ids: Tensor) -> Tensor:
    """Not quite the mean of the evaluated activations: it comes from other text."""
    return model.read(ids, [HOOK])[HOOK].mean((0, 1)) + 0.1


Scoring = Callable[..., list[Score]]


@pytest.fixture(scope="module")
def text(tokens: TokenSet) -> HeldOutText:
    counts = np.bincount(tokens.train[:].ravel(), minlength=VOCAB)
    return HeldOutText(tokens.held_out, tokens.usable("held_out"), counts=counts)


@pytest.fixture(scope="module")
def scored(model: Any, text: HeldOutText) -> Scoring:
    def run(*hooked: HookedDictionary, batch_contexts: int = 3) -> list[Score]:
        return scores_of([model], hooked, text, batch_contexts)

    return run


def scores_of(
    models: Sequence[Any],
    hooked: Sequence[HookedDictionary],
    text: HeldOutText,
    batch_contexts: int = 3,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Score]:
    """The scores of dictionaries all of which can be scored."""
    found = [one for one in score(models, hooked, text, batch_contexts, advance) if isinstance(one, Score)]
    assert len(found) == len(hooked)
    return found


def identity() -> Dictionary:
    """relu(x) - relu(-x): two latents a dimension."""
    made = Dictionary(parts("standard_new", WIDTH, 2 * WIDTH)[0])
    eye = torch.eye(WIDTH)
    with torch.no_grad():
        made.geometry.get_parameter("W_enc").copy_(torch.cat([eye, -eye], dim=1))
        made.geometry.get_parameter("W_dec").copy_(torch.cat([eye, -eye]))
    return made.eval()


def constant(value: Tensor) -> Dictionary:
    """Writes this vector, whatever it reads."""
    made = Dictionary(parts("standard_new", WIDTH, 4)[0])
    with torch.no_grad():
        made.geometry.get_parameter("b_dec").copy_(value)
        made.geometry.get_parameter("b_enc").fill_(1.0)
    return made.eval()


def random(name: str = "topk", seed: int = 0) -> Dictionary:
    return filled(parts(name, WIDTH, 24)[0], seed)


def filled(config: DictionaryConfig, seed: int = 0) -> Dictionary:
    """Random weights, scales of a half, and statistics of some codes."""
    made = randomize(Dictionary(config), seed)
    for side in (made.read, made.write):
        side.get_buffer("scale").fill_(0.5)
    made.sparsity.observe(torch.rand(3, made.geometry.latents))
    return made.eval()


def attach(dictionary: Dictionary, hook: str, mean: Tensor) -> HookedDictionary:
    """A dictionary that writes what it reads."""
    return HookedDictionary(dictionary, [HookPoint(0, hook)], [HookPoint(0, hook)], [mean], [1.0])


def test_an_identity_loses_nothing(scored: Scoring, mean: Tensor) -> None:
    metrics = scored(attach(identity(), HOOK, mean))[0].metrics
    assert metrics["ce_difference"] == pytest.approx(0, abs=1e-6)
    assert metrics["kl_div"] == pytest.approx(0, abs=1e-9)
    for name in ("ce_loss_score_zero", "ce_loss_score_mean", "kl_div_score_zero", "kl_div_score_mean"):
        assert metrics[name] == pytest.approx(1, abs=1e-5)
    assert metrics["explained_variance"] == pytest.approx(1, abs=1e-12)
    assert metrics["l0"] == WIDTH


def test_a_dictionary_that_writes_zeros_is_zero_ablation(scored: Scoring, mean: Tensor) -> None:
    metrics = scored(attach(constant(torch.zeros(WIDTH)), HOOK, mean))[0].metrics
    assert metrics["ce_spliced"] == metrics["ce_zero_ablated"]
    assert metrics["ce_loss_score_zero"] == metrics["kl_div_score_zero"] == 0


def test_a_dictionary_that_writes_the_mean_is_mean_ablation(scored: Scoring, mean: Tensor) -> None:
    metrics = scored(attach(constant(mean), HOOK, mean))[0].metrics
    assert metrics["ce_spliced"] == metrics["ce_mean_ablated"]
    assert metrics["ce_loss_score_mean"] == metrics["kl_div_score_mean"] == 0
    assert metrics["ce_zero_ablated"] != metrics["ce_mean_ablated"]


def cross_entropy(model: Any, ids: Tensor, hook: str, replace: Callable[[Tensor], Tensor], spare: bool = True) -> float:
    """Nats a position of the model with activations replaced, token by token; special ones are spared."""

    def edit(activations: Tensor) -> Tensor:
        edited = activations.clone()
        for position in range(ids.shape[1]):
            if not spare or context[0, position] != SPECIAL:
                edited[0, position] = replace(activations[0, position])
        return edited

    losses = []
    for context in ids.split(1):
        log_p = model.logits_with(context, {hook: edit}).double().log_softmax(-1)[0]
        losses += [
            -log_p[position, context[0, position + 1]].item()
            for position in range(ids.shape[1] - 1)
            if context[0, position] != SPECIAL
        ]
    return float(np.mean(losses))


@pytest.mark.parametrize("hook", [HOOK, OTHER_HOOK])
@pytest.mark.parametrize("name", SAES)
def test_cross_entropies_are_those_of_splices_worked_out_by_hand(
    name: str, hook: str, scored: Scoring, model: Any, ids: Tensor, mean: Tensor
) -> None:
    dictionary = random(name)
    metrics = scored(attach(dictionary, hook, mean))[0].metrics
    by_hand = {
        "ce_clean": lambda x: x,
        "ce_spliced": lambda x: dictionary(x[None])[0],
        "ce_zero_ablated": torch.zeros_like,
        "ce_mean_ablated": lambda x: mean,
    }
    for metric, replace in by_hand.items():
        assert metrics[metric] == pytest.approx(cross_entropy(model, ids, hook, replace), rel=1e-5), metric


def test_it_matters_that_special_tokens_are_spared(scored: Scoring, model: Any, ids: Tensor, mean: Tensor) -> None:
    spared = scored(attach(random(), HOOK, mean))[0].metrics["ce_zero_ablated"]
    assert abs(spared - cross_entropy(model, ids, HOOK, torch.zeros_like, spare=False)) > 1e-3


@pytest.mark.parametrize("name", SAES)
def test_reconstruction_metrics_are_over_text_tokens(
    name: str, scored: Scoring, model: Any, ids: Tensor, mean: Tensor
) -> None:
    dictionary = random(name)
    found = scored(attach(dictionary, HOOK, mean))[0]
    x = model.read(ids, [HOOK])[HOOK][ids != SPECIAL]
    with torch.no_grad():
        codes, y, y_hat = dictionary.encode(x), x.double().numpy(), dictionary(x).double().numpy()
    assert found.metrics["tokens"] == len(x) == CONTEXTS * (CONTEXT_SIZE - 1) - 2
    explained = 1 - ((y - y_hat) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert found.metrics["explained_variance"] == pytest.approx(explained, rel=1e-5)
    assert found.metrics["l0"] == pytest.approx((codes != 0).sum().item() / len(x), rel=1e-6)
    assert found.metrics["dead"] == (codes == 0).all(0).sum().item()
    torch.testing.assert_close(found.latents["density"], (codes != 0).float().mean(0), rtol=1e-5, atol=1e-6)


def as_text(breakdowns: dict[str, Breakdown]) -> str:
    """Every number, so that nan, of a bin without tokens, is what it is."""
    return json.dumps({kind: dataclasses.asdict(one) for kind, one in breakdowns.items()}, sort_keys=True)


def require_close(found: Score, expected: Score, rel: float) -> None:
    assert found.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=rel, abs=rel), name
    for name, value in expected.latents.items():
        torch.testing.assert_close(found.latents[name], value, rtol=rel, atol=rel)
    assert found.errors.keys() == expected.errors.keys()
    for name, value in expected.errors.items():
        assert found.errors[name] == pytest.approx(value, rel=max(rel, 1e-5), abs=rel), name
    for kind, breakdown in expected.breakdowns.items():
        for name, values in breakdown.metrics.items():
            assert found.breakdowns[kind].metrics[name] == pytest.approx(values, rel=rel, abs=1e-5, nan_ok=True), name


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("batch_contexts", [1, 2, CONTEXTS, 100])
def test_batch_size_changes_nothing(name: str, batch_contexts: int, scored: Scoring, mean: Tensor) -> None:
    """But for what SAELens defines by batches."""
    one = attach(random(name), HOOK, mean)
    found, expected = scored(one, batch_contexts=batch_contexts)[0], scored(one)[0]
    by_batches = ("saelens_relative_reconstruction_bias", "saelens_explained_variance_legacy")
    for score_of in (found, expected):
        assert all(score_of.metrics.pop(metric) for metric in by_batches)
    require_close(found, expected, 1e-6)


def test_company_changes_nothing(scored: Scoring, mean: Tensor) -> None:
    hooked = [
        attach(random("topk"), HOOK, mean),
        attach(random("jumprelu"), OTHER_HOOK, mean),
        attach(random("batchtopk"), HOOK, mean - 1),  # the mean of other text, at the same place
        attach(random("topk", seed=1), HOOK, torch.zeros(WIDTH)),
    ]
    together = scored(*hooked)
    for one, found in zip(hooked, together, strict=True):
        alone = scored(one)[0]
        assert (found.metrics, found.errors) == (alone.metrics, alone.errors)
        assert as_text(found.breakdowns) == as_text(alone.breakdowns)
        assert all(torch.equal(found.latents[name], value) for name, value in alone.latents.items())
    assert len({found.metrics["ce_mean_ablated"] for found in together}) == 4


class _Forgetful:
    """A model that cannot run on from replaced activations the first time that it is asked to."""

    def __init__(self, model: Any) -> None:
        self.model, self.device, self.asked = model, model.device, 0

    def read(self, ids: Tensor, hook_points: Sequence[str]) -> Mapping[str, Tensor]:
        return self.model.read(ids, hook_points)

    def logits(self, ids: Tensor) -> Tensor:
        return self.model.logits(ids)

    def logits_with(self, ids: Tensor, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        return self.model.logits_with(ids, edits)

    def logits_from(self, ids: Tensor, layer: int, residual: Tensor, edits: Mapping[str, Any]) -> Tensor:
        self.asked += 1
        if self.asked == 2:  # the first was the model by itself
            raise ZeroDivisionError("the first time")
        return self.model.logits_from(ids, layer, residual, edits)

    def hook_points(self) -> dict[str, int]:
        return self.model.hook_points()


class _Continuing(_Forgetful):
    """A model that runs on from the layers that it lists, and never runs whole."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.layers: list[int] = []

    def logits(self, ids: Tensor) -> Tensor:
        raise AssertionError("the first layer ran again")

    def logits_with(self, ids: Tensor, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        raise AssertionError("the first layer ran again")

    def logits_from(self, ids: Tensor, layer: int, residual: Tensor, edits: Mapping[str, Any]) -> Tensor:
        self.layers.append(layer)
        return self.model.logits_from(ids, layer, residual, edits)


@pytest.mark.parametrize("hook", ["blocks.1.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.0.hook_resid_post"])
def test_a_dictionary_is_scored_without_the_layers_before_it_also_where_it_writes_inside_a_layer(
    hook: str, scored: Scoring, model: Any, text: HeldOutText, mean: Tensor
) -> None:
    hooked = attach(random("topk"), hook, mean)
    continuing: Any = _Continuing(model)
    (found,) = score([continuing], [hooked], text, 3, lambda count: None)
    assert isinstance(found, Score)
    assert {*continuing.layers} == {1}
    assert found.metrics == scored(hooked)[0].metrics


def test_a_dictionary_that_cannot_be_scored_costs_no_other_its_score(
    scored: Scoring, model: Any, text: HeldOutText, mean: Tensor
) -> None:
    """Whether it is of another width, or the model fails in a pass that it shares with the others."""
    sound = [attach(random("topk"), HOOK, mean), attach(random("jumprelu"), OTHER_HOOK, mean)]
    wide = attach(Dictionary(parts("topk", WIDTH + 1, 24)[0]).eval(), HOOK, mean)
    first, error, second = score([model], [sound[0], wide, sound[1]], text, 3, lambda count: None)
    assert isinstance(error, RuntimeError)
    forgetful: Any = _Forgetful(model)
    failed, *found = score([forgetful], [sound[0], *sound], text, 3, lambda count: None)
    assert isinstance(failed, ZeroDivisionError)
    alone = [one.metrics for one in scored(*sound)]
    assert [one.metrics for one in (first, second) if isinstance(one, Score)] == alone
    assert [one.metrics for one in found if isinstance(one, Score)] == alone


def test_text_of_which_no_token_counts_is_an_error_that_names_the_column(
    model: Any, text: HeldOutText, mean: Tensor
) -> None:
    limited = dataclasses.replace(text, max_norms={HookPoint(0, HOOK): 1e-9})
    with pytest.raises(NotEnoughTokens, match=r"activations\.max_norm_factor"):
        score([model], [attach(random(), HOOK, mean)], limited, 3, lambda count: None)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_measured_alone_is_what_it_is_beside_the_others(group: str, scored: Scoring, mean: Tensor) -> None:
    """And dictionaries of one pass may be measured in different groups."""
    whole = attach(random("topk"), HOOK, mean)
    beside = dataclasses.replace(attach(random("jumprelu"), OTHER_HOOK, mean), groups=["model"])
    alone, _ = scored(dataclasses.replace(whole, groups=[group]), beside)
    expected = scored(whole)[0].select([group])
    assert (alone.metrics, alone.histograms) == (expected.metrics, expected.histograms)
    assert alone.errors == expected.errors
    assert as_text(alone.breakdowns) == as_text(expected.breakdowns)
    assert alone.latents.keys() == expected.latents.keys()
    assert all(torch.equal(alone.latents[name], value) for name, value in expected.latents.items())


def test_every_group_has_a_measure_and_measures_what_is_defined_and_nothing_else(scored: Scoring, mean: Tensor) -> None:
    assert {*ON_TEXT, *WITHOUT_TEXT} == GROUPS.keys()
    found = scored(attach(random(), HOOK, mean))[0]
    wanted = {"reconstruction", "sparsity", "model", "decoder"}  # the features are not known, and nothing is converted
    assert {*found.metrics, *found.histograms, *found.latents} == names_in(wanted)


NO_ERRORS = {"tokens", "d_sae", "dead", "dead_share", "rare_1e-5", "dense_1e-2", "dense_1e-1"} | {
    "saelens_relative_reconstruction_bias",
    "saelens_explained_variance_legacy",
    "frac_variance_explained",
}


def test_every_metric_of_text_has_a_standard_error_but_counts_and_what_is_defined_by_batches(
    scored: Scoring, mean: Tensor
) -> None:
    found = scored(attach(random(), HOOK, mean))[0]
    assert found.errors.keys() == found.metrics.keys() - NO_ERRORS - {*GROUPS["decoder"].metrics}
    assert all(value > 0 for name, value in found.errors.items() if not name.startswith("l0"))
    assert found.errors["l0"] == found.errors["l0_over_k"] == 0, "each token has k latents"
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    section = page.split("## Standard errors", 1)[1].split("\n## ", 1)[0]
    assert [name for name in NO_ERRORS if f"`{name}`" not in section] == []


def test_errors_and_breakdowns_are_those_of_losses_worked_out_context_by_context(
    scored: Scoring, model: Any, ids: Tensor, mean: Tensor, tokens: TokenSet
) -> None:
    dictionary = random("jumprelu")
    found = scored(attach(dictionary, HOOK, mean))[0]
    counted = (ids != SPECIAL).numpy()
    y = model.read(ids, [HOOK])[HOOK]
    with torch.no_grad():
        y_hat, codes = dictionary(y), dictionary.encode(y)
    spliced = torch.where((ids != SPECIAL)[..., None], y_hat, y)

    def losses(logits: Tensor) -> np.ndarray:
        log_p = logits.double().log_softmax(-1)[:, :-1]
        nothing = torch.zeros(len(ids), 1)
        return torch.cat([-log_p.gather(-1, ids[:, 1:, None])[..., 0], nothing], dim=1).numpy()

    dearer = losses(model.logits_with(ids, {HOOK: lambda _: spliced})) - losses(model.logits(ids))
    has_next = counted.copy()
    has_next[:, -1] = False
    fired, error = (codes != 0).sum(-1).numpy(), (y - y_hat).double().square().sum(-1).numpy()
    own = y.double().numpy()
    variance = ((own - own[counted].mean(0)) ** 2).sum(-1)

    def require(where: np.ndarray, above: np.ndarray, below: np.ndarray, value: float, error: float) -> None:
        n, d = (above * where).sum(1), (below * where).sum(1)
        c, r = (counted & where).any(1).sum(), n.sum() / d.sum()
        assert value == pytest.approx(r, rel=1e-4)
        assert error == pytest.approx(math.sqrt(c / (c - 1) * ((n - r * d) ** 2).sum()) / d.sum(), rel=0.01)

    everywhere = np.ones_like(counted)
    require(has_next, dearer, everywhere, found.metrics["ce_difference"], found.errors["ce_difference"])
    require(counted, fired, everywhere, found.metrics["l0"], found.errors["l0"])
    require(counted, error, everywhere, found.metrics["mse"], found.errors["mse"])
    count = np.bincount(tokens.train[:].ravel(), minlength=VOCAB)
    rate = count[ids.numpy()] / count.sum()
    by = {"position": np.broadcast_to(np.arange(CONTEXT_SIZE), counted.shape), "token_frequency": rate}
    assert found.breakdowns.keys() == by.keys()
    for kind, breakdown in found.breakdowns.items():
        assert len(breakdown.low) > 3
        for i, (low, high) in enumerate(zip(breakdown.low, breakdown.high, strict=True)):
            inside = (by[kind] >= low) & (by[kind] <= high)
            there = inside & counted
            assert breakdown.metrics["tokens"][i] == there.sum()
            if not there.any():
                assert math.isnan(breakdown.metrics["l0"][i])
                continue
            explained = 1 - error[there].sum() / variance[there].sum()
            assert breakdown.metrics["explained_variance"][i] == pytest.approx(explained, rel=1e-5)
            sides = (breakdown.metrics, breakdown.errors)
            require(there, fired, everywhere, *(side["l0"][i] for side in sides))
            require(inside & has_next, dearer, everywhere, *(side["ce_difference"][i] for side in sides))


def test_scales_and_their_fold_score_alike(scored: Scoring, mean: Tensor) -> None:
    dictionary = random("batchtopk")
    plain, folded = scored(attach(dictionary, HOOK, mean), attach(dictionary.fold_normalizers(), HOOK, mean))
    require_close(folded, plain, 1e-5)


def test_only_the_contexts_asked_for_are_scored(model: Any, tokens: TokenSet, mean: Tensor) -> None:
    counts: list[int] = []
    text = HeldOutText(tokens.held_out, tokens.usable("held_out", slice(0, 4)))
    found = scores_of([model], [attach(random(), HOOK, mean)], text, advance=counts.append)[0]
    assert found.metrics["tokens"] == 4 * (CONTEXT_SIZE - 1) - 1
    assert counts == [3 * CONTEXT_SIZE, CONTEXT_SIZE]


def test_a_score_is_saved_as_json_and_vectors(scored: Scoring, mean: Tensor, tmp_path: Path) -> None:
    found = scored(attach(random("jumprelu"), HOOK, mean))[0]
    found.save(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {**found.metrics, **found.histograms}
    assert json.loads((tmp_path / "standard_errors.json").read_text()) == found.errors
    breakdown = json.loads((tmp_path / "breakdown.json").read_text())["position"]
    assert (breakdown["from"], breakdown["to"]) == ([0, 1, 2, 4, 8], [0, 1, 3, 7, 9])
    assert breakdown["metrics"]["l0"][0] is None, "special tokens open all contexts"
    assert breakdown["metrics"]["l0"][1:] == found.breakdowns["position"].metrics["l0"][1:]
    latents = load_file(tmp_path / "latents.safetensors")
    assert {name: (value.shape, value.dtype) for name, value in latents.items()} == {
        name: ((24,), torch.float32) for name in ("density", "mean_activation", "firings_per_context")
    }
    assert sum(found.histograms["density_histogram"]) == 24 - found.metrics["dead"]


def test_a_score_is_read_as_it_was_saved_and_chosen_from_by_group(tmp_path: Path) -> None:
    metrics = {"mse": 0.1, "mse[here@1]": 1e-17, "l0": 3.0, "dead": 3, "kl_div": float("inf")}
    errors = {"mse": 0.01, "mse[here@1]": math.nan, "l0": 0.5}
    breakdowns = {"position": Breakdown([0, 1], [0, 1], {"l0": [1.5, 2.0], "tokens": [3, 4]}, {"l0": [0.5, 0.0]})}
    Score(metrics, {"density_histogram": [1, 2]}, {"density": torch.rand(3)}, errors, breakdowns).save(tmp_path)
    found = Score.load(tmp_path)
    chosen = found.select(["reconstruction"])
    assert chosen.metrics == {"mse": 0.1, "mse[here@1]": 1e-17}
    assert math.isnan(chosen.errors.pop("mse[here@1]"))
    assert chosen.errors == {"mse": 0.01}
    assert chosen.breakdowns == {"position": Breakdown([0, 1], [0, 1], {"tokens": [3, 4]})}
    assert found.select(["decoder"]) == Score()
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics | {
        "kl_div": None,
        "density_histogram": [1, 2],
    }
    (tmp_path / "again").mkdir()
    (found.select(["sparsity"]) | found.select(["model", "reconstruction"])).save(tmp_path / "again")
    for name in ("metrics.json", "standard_errors.json", "breakdown.json", "latents.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def site(name: str, reads: int, writes: int) -> Dictionary:
    """A random dictionary of a catalog entry, over so many hook points."""
    config = parts(name, WIDTH, 24)[0]
    return filled(config.model_copy(update={"widths": Widths(reads=(WIDTH,) * reads, writes=(WIDTH,) * writes)}))


def test_a_transcoder_is_spliced_where_it_writes(scored: Scoring, model: Any, ids: Tensor, mean: Tensor) -> None:
    dictionary = site("transcoder", 1, 1)
    hooked = HookedDictionary(dictionary, [HookPoint(0, HOOK)], [HookPoint(0, OTHER_HOOK)], [mean], [1.0])
    found = scored(hooked)[0].metrics
    x, y = (model.read(ids, [hook])[hook] for hook in (HOOK, OTHER_HOOK))
    y_hat = dictionary(x)
    replaced = torch.where((ids != SPECIAL)[..., None], y_hat, y)
    log_p = model.logits_with(ids, {OTHER_HOOK: lambda _: replaced}).double().log_softmax(-1)
    losses = -log_p[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)[ids[:, :-1] != SPECIAL]
    assert found["ce_spliced"] == pytest.approx(losses.mean().item(), rel=1e-5)
    usable = (ids != SPECIAL)[..., None]
    error = ((y_hat - y).double() * usable).pow(2).sum() / usable.sum()
    assert found["mse"] == pytest.approx(error.item(), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in CATALOG if name not in SAES])
def test_every_other_geometry_is_scored(name: str, scored: Scoring, mean: Tensor) -> None:
    config = parts(name, WIDTH, 24)[0]
    read = [HookPoint(0, HOOK), HookPoint(0, "blocks.1.hook_resid_post")][: len(config.widths.reads)]
    written = (
        read
        if config.geometry.autoencodes
        else [HookPoint(0, "blocks.0.hook_mlp_out"), HookPoint(0, OTHER_HOOK)][: len(read)]
    )
    hooked = HookedDictionary(filled(config), read, written, [mean] * len(written), [1.0] * len(written))
    found = scored(hooked)[0]
    assert found.metrics["tokens"] == CONTEXTS * (CONTEXT_SIZE - 1) - 2
    assert 0 < found.metrics["l0"] < found.metrics["d_sae"]
    assert found.metrics["kl_div"] > 0
    sites = [metric for metric in found.metrics if metric.startswith("explained_variance[")]
    assert [metric for metric in found.errors if metric.startswith("explained_variance[")] == sites
    assert sites == ([f"explained_variance[{hook}]" for _, hook in written] if len(written) > 1 else [])


def test_hook_points_spliced_together_and_their_own_metrics_add_up(
    scored: Scoring, model: Any, ids: Tensor, mean: Tensor
) -> None:
    hooks = [HookPoint(0, "blocks.0.hook_mlp_out"), HookPoint(0, OTHER_HOOK)]
    found = scored(HookedDictionary(site("crosscoder", 2, 2), hooks, hooks, [mean, mean], [1.0, 1.0]))[0].metrics
    parts_of_it = [found[f"mse[{hook}]"] for _, hook in hooks]
    assert found["mse"] == pytest.approx(sum(parts_of_it), rel=1e-9)
    zeros = {hook: torch.zeros_like for _, hook in hooks}

    def spared(hook: str) -> Callable[[Tensor], Tensor]:
        return lambda activations: torch.where((ids != SPECIAL)[..., None], zeros[hook](activations), activations)

    log_p = model.logits_with(ids, {hook: spared(hook) for hook in zeros}).double().log_softmax(-1)
    losses = -log_p[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)[ids[:, :-1] != SPECIAL]
    assert found["ce_zero_ablated"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_two_models_are_pooled(model: Any, text: HeldOutText, mean: Tensor) -> None:
    places = [HookPoint(0, HOOK), HookPoint(1, HOOK)]
    dictionary = site("crosscoder", 2, 2)
    both = scores_of([model, model], [HookedDictionary(dictionary, places, places, [mean, mean], [1.0, 1.0])], text)[0]
    one = scores_of([model], [attach(random(), HOOK, mean)], text)[0]
    # The same model twice: what does not depend on the dictionary is the same as of one.
    for metric in ("ce_clean", "ce_zero_ablated", "ce_mean_ablated"):
        assert both.metrics[metric] == pytest.approx(one.metrics[metric], rel=1e-12)
    assert both.metrics[f"explained_variance[{HOOK}@0]"] != both.metrics[f"explained_variance[{HOOK}@1]"]
