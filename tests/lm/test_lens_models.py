"""TransformerLens's own models, by what they compute in float64, in the TransformerLens that is installed."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import zarr
from safetensors.torch import save_file

import lmsae as package
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import SourceError
from lmsae.interop.foreign_names import model_name
from lmsae.lm import load, read_config, resolve
from lmsae.lm.continuing import run_on, wanted_residual
from lmsae.lm.hook_points import hook_points
from lmsae.lm.resolving import default_tokenizer
from lmsae.lm.unembedding import obstacle, projection_at, unembedding_rows
from lmsae.stages.flops import model_flops
from lmsae.stages.footprint import model_bytes, widest
from tests.lm.lens_folders import (
    CONTEXT,
    D_HEAD,
    D_MLP,
    D_MODEL,
    HEADS,
    KINDS,
    LAYERS,
    SIZES,
    VOCAB,
    compute,
    config_of,
    write_lens_model,
)
from tests.local_hub import Repository, start_hub, turn_client_to
from tests.miniature import ROWS, Said, make_until, write_sweep

HAS_HOOKED = find_spec("transformer_lens.HookedTransformer") is not None
RUN = [kind for kind in KINDS if HAS_HOOKED or kind != "shortformer"]
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}


def run(folder: Path) -> Any:
    return load(resolve(str(folder)), backend="transformerlens", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, dict[str, torch.Tensor]]]:
    """The model of a kind, loaded, and its weights."""
    known: dict[str, Any] = {}

    def make(kind: str) -> Any:
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind) / "model"
            weights = write_lens_model(folder, kind)
            known[kind] = run(folder), weights
        return known[kind]

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.arange(2 * CONTEXT).mul(17).remainder(VOCAB).view(2, CONTEXT)


@pytest.mark.parametrize("kind", RUN)
def test_every_hook_point_and_the_logits_are_those_of_the_formulas(kind: str, made: Any, tokens: torch.Tensor) -> None:
    model, weights = made(kind)
    expected = compute(kind, weights, tokens)
    logits = expected.pop("logits")
    assert [*model.hook_points()] == [*expected]
    assert model.hook_points() == {name: one.shape[-1] for name, one in expected.items()}
    for name, found in model.read(tokens, [*expected]).items():
        torch.testing.assert_close(
            found.double(), expected[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )
    torch.testing.assert_close(model.logits(tokens).double(), logits, **CLOSE)
    assert (model.d_vocab, model.max_context, model.start_cache()) == (VOCAB, 64, None)


def test_hook_points_and_widths_are_known_of_the_config_alone(tmp_path: Path) -> None:
    for kind, has_mlp in (("attn_only", False), ("solu", True)):
        write_lens_model(tmp_path / kind, kind)
        (tmp_path / kind / "model_final.pth").unlink()
        found = hook_points(read_config(resolve(str(tmp_path / kind))))
        assert found["blocks.2.attn.hook_z"] == HEADS * D_HEAD
        assert found.get("blocks.2.mlp.hook_post") == (D_MLP if has_mlp else None)
        assert ("blocks.0.hook_resid_mid" in found) == has_mlp


@pytest.mark.parametrize("kind", RUN)
def test_what_stands_in_the_place_of_activations_is_what_later_layers_read(
    kind: str, made: Any, tokens: torch.Tensor
) -> None:
    """With the residual stream of another text in its place, the logits are that text's."""
    model, weights = made(kind)
    other = (tokens + 5) % VOCAB
    there, here = compute(kind, weights, other), model.read(tokens, [*model.hook_points()])
    for name in (name for name in model.hook_points() if name.startswith("blocks.1.hook_resid")):
        value = there[name].float()
        spliced = model.logits_with(tokens, {name: lambda _, value=value: value})
        if kind != "shortformer":  # whose positions do not stand in the residual stream
            torch.testing.assert_close(spliced.double(), there["logits"], **CLOSE)
        needed = wanted_residual([name])
        known = {} if needed is None else {needed: here[needed]}
        torch.testing.assert_close(run_on(model, tokens, {name: value}, known), spliced, **CLOSE)
    # What is added behind the last attention and taken away behind the last layer changes an MLP's reading alone.
    added = torch.linspace(-1, 1, model.hook_points()["blocks.2.hook_attn_out"])
    edits = {"blocks.2.hook_attn_out": lambda x: x + added, "blocks.2.hook_resid_post": lambda x: x - added}
    moved = float((model.logits_with(tokens, edits) - model.logits(tokens)).abs().max())
    assert (moved > 0.01) == ("blocks.2.hook_mlp_out" in model.hook_points())


@pytest.mark.parametrize("kind", [kind for kind in RUN if KINDS[kind].get("normalization_type", "LN")])
def test_an_edit_of_what_attention_reads_holds_for_queries_keys_and_values(
    kind: str, made: Any, tokens: torch.Tensor
) -> None:
    model, _ = made(kind)
    name, calls = "blocks.1.ln1.hook_normalized", []

    def edit(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return torch.zeros_like(x)

    z = "blocks.1.attn.hook_z"
    seen: list[torch.Tensor] = []
    model.logits_with(tokens, {name: edit, z: lambda x: seen.append(x) or x})
    assert len(calls) == 1
    # values of zeros are their bias, whatever the pattern
    torch.testing.assert_close(seen[0], made(kind)[1]["blocks.1.attn.b_V"].flatten().expand_as(seen[0]), **CLOSE)
    before = model.logits(tokens)
    torch.testing.assert_close(model.logits_with(tokens, {name: lambda x: x.clone()}), before, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["attn_only", "gelu"])
def test_the_straight_way_to_the_logits_is_that_of_the_weights(kind: str, made: Any) -> None:
    model, weights = made(kind)
    rows = weights["unembed.W_U"].T * weights.get("ln_final.w", torch.ones(()))
    torch.testing.assert_close(unembedding_rows(model), rows - rows.mean(1, keepdim=True))
    assert obstacle(model.config, "blocks.1.attn.hook_z") is None
    found = projection_at(model, "blocks.1.attn.hook_z")
    assert found is not None
    torch.testing.assert_close(found, weights["blocks.1.attn.W_O"].flatten(0, 1))
    if kind == "gelu":
        out = projection_at(model, "blocks.1.mlp.hook_post")
        assert out is not None
        torch.testing.assert_close(out, weights["blocks.1.mlp.W_out"])


def test_a_last_norm_that_is_no_layer_norm_is_an_obstacle_on_that_way(tmp_path: Path) -> None:
    for kind in ("solu_folded", "plain"):
        write_lens_model(tmp_path / kind, kind)
        config = read_config(resolve(str(tmp_path / kind)))
        assert obstacle(config, "blocks.1.hook_resid_post") == "its last norm is no layer norm"


def test_weights_are_read_from_safetensors_too_and_an_unembedding_may_have_no_bias(
    tmp_path: Path, tokens: torch.Tensor
) -> None:
    weights = write_lens_model(tmp_path / "model", "gelu")
    del weights["unembed.b_U"]
    (tmp_path / "model" / "model_final.pth").unlink()
    save_file(weights, tmp_path / "model" / "model.safetensors")
    expected = compute("gelu", {**weights, "unembed.b_U": torch.zeros(VOCAB)}, tokens)["logits"]
    torch.testing.assert_close(run(tmp_path / "model").logits(tokens).double(), expected, **CLOSE)


def test_a_model_in_bfloat16_rounds_as_such(tmp_path: Path, tokens: torch.Tensor) -> None:
    weights = write_lens_model(tmp_path / "model", "solu")
    model = load(resolve(str(tmp_path / "model")), backend="transformerlens", dtype="bfloat16", device="cpu")
    found, expected = model.logits(tokens), compute("solu", weights, tokens)["logits"]
    assert found.dtype == torch.bfloat16
    assert 1e-6 < float((found.double() - expected).norm() / expected.norm()) < 0.05


class Runs:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("1 + 1",))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: weights.pop("blocks.1.attn.W_Q"), r"missing are blocks\.1\.attn"),
        (lambda weights: weights.update(extra=torch.ones(1)), "extra"),
        (lambda weights: weights.update({"embed.W_E": torch.ones(VOCAB, 8)}), r"of another shape are embed\.\w+"),
        (lambda weights: weights.update({"blocks.0.attn.W_O": torch.ones(HEADS, 4, 6)}), "attn"),
        (lambda weights: weights.update(code=Runs()), "cannot be read as tensors alone"),
        (lambda weights: weights.update(embed=[1, 2]), "holds no tensors by name"),
    ],
)  # fmt: skip
def test_weights_that_are_not_the_configs_are_refused(tmp_path: Path, change: Any, told: str) -> None:
    weights = write_lens_model(tmp_path / "model", "gelu")
    change(weights)
    torch.save(weights, tmp_path / "model" / "model_final.pth")
    with pytest.raises(SourceError, match=told):
        run(tmp_path / "model")


def test_a_pickle_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_lens_model(tmp_path / "model", "gelu")
    file = tmp_path / "model" / "model_final.pth"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(SourceError, match="cannot be read as tensors alone"):
        run(tmp_path / "model")


def test_a_folder_without_weights_or_with_several_is_refused(tmp_path: Path) -> None:
    weights = write_lens_model(tmp_path / "model", "gelu")
    (tmp_path / "model" / "model_final.pth").rename(tmp_path / "model" / "a.pth")
    assert run(tmp_path / "model").d_vocab == VOCAB
    torch.save(weights, tmp_path / "model" / "b.pth")
    with pytest.raises(SourceError, match=r"several files of weights \(a\.pth, b\.pth\)"):
        run(tmp_path / "model")
    for name in "ab":
        (tmp_path / "model" / f"{name}.pth").unlink()
    with pytest.raises(SourceError, match=r"wanted weights of a HookedTransformer .*torch\.save\(model\.state_dict"):
        run(tmp_path / "model")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("positional_embedding_type", "rotary", "'standard' or 'shortformer'"),
        ("act_fn", "xielu", "'relu' or 'gelu'"),
        ("normalization_type", "RMS", "'LN' or 'LNPre' or None"),
        ("gated_mlp", True, "False"),
        ("n_key_value_heads", 2, "None"),
        ("attention_dir", "bidirectional", "'causal'"),
        ("architecture", "mingpt", "None or 'neel'"),
        ("n_ctx", None, "a whole number"),
    ],
)
def test_a_config_that_asks_for_more_is_refused_with_the_field(
    tmp_path: Path, field: str, value: object, told: str
) -> None:
    write_lens_model(tmp_path / "model", "gelu")
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config_of("gelu"), field: value}))
    with pytest.raises(SourceError, match=f"has {field} {re.escape(repr(value))}.*{re.escape(told)}"):
        read_config(resolve(str(tmp_path / "model")))


def test_what_hooked_transformer_writes_for_a_plain_model_is_accepted(tmp_path: Path) -> None:
    write_lens_model(tmp_path / "model", "gelu")
    plain = {"n_key_value_heads": HEADS, "attn_scale": D_HEAD**0.5, "d_vocab_out": VOCAB, "use_attn_scale": True}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config_of("gelu"), **plain}))
    assert read_config(resolve(str(tmp_path / "model")))["model_type"] == "hooked_transformer"


def test_the_other_backend_is_refused_with_the_one_that_can(tmp_path: Path) -> None:
    write_lens_model(tmp_path / "model", "gelu")
    with pytest.raises(
        SourceError, match=r"model\.backend huggingface does not know the model.*set it to transformerlens"
    ):
        load(resolve(str(tmp_path / "model")), backend="huggingface", dtype="float32", device="cpu")


def test_its_config_lends_the_name_of_a_tokenizer_unless_one_lies_there(tmp_path: Path) -> None:
    write_lens_model(tmp_path / "model", "gelu")
    assert default_tokenizer(resolve(str(tmp_path / "model"))) == "some/tokenizer"
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    assert default_tokenizer(resolve(str(tmp_path / "model"))) is None


def test_positions_of_queries_and_keys_alone_are_run_or_refused_with_the_version_that_can(tmp_path: Path) -> None:
    write_lens_model(tmp_path / "model", "shortformer")
    if HAS_HOOKED:
        assert run(tmp_path / "model").max_context == 64
        return
    with pytest.raises(SourceError, match=r"shortformer.*pip install 'transformer-lens<4'"):
        run(tmp_path / "model")


def test_what_transformerlens_trained_and_saved_itself_is_read_as_it_reads_it(
    tmp_path: Path, tokens: torch.Tensor
) -> None:
    if not HAS_HOOKED:
        return  # version 4 has no such class, and the formulas above are what it computed
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    fields: dict[str, Any] = {**SIZES, "d_vocab": VOCAB, "act_fn": "gelu_new", "normalization_type": "LN", "seed": 1}
    with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
        theirs = HookedTransformer(HookedTransformerConfig(**fields, device="cpu"))
    (tmp_path / "model").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "model" / "model_final.pth")
    saved = {name: value for name, value in theirs.cfg.to_dict().items() if name not in ("dtype", "device")}
    (tmp_path / "model" / "config.json").write_text(json.dumps(saved))
    ours = run(tmp_path / "model")
    logits, cache = cast(Any, theirs.run_with_cache(tokens))
    assert torch.equal(ours.logits(tokens), logits)
    for name, found in ours.read(tokens, [*ours.hook_points()]).items():
        before = name.removesuffix(".hook_normalized")
        norm: Any = theirs.get_submodule(before) if name != before else None
        expected = cache[name] if norm is None else cache[name] * norm.w + norm.b
        assert torch.equal(found, expected.flatten(2)), name


def test_flops_and_bytes_count_no_mlp_where_there_is_none(tmp_path: Path) -> None:
    for kind, mlp in (("attn_only", 0), ("gelu", 2 * D_MODEL * D_MLP)):
        write_lens_model(tmp_path / kind, kind)
        config = read_config(resolve(str(tmp_path / kind)))
        attention = 4 * D_MODEL * HEADS * D_HEAD
        layer = attention + CONTEXT * HEADS * D_HEAD + mlp
        assert model_flops(config, CONTEXT) == 2 * (LAYERS * layer + D_MODEL * VOCAB)
        assert model_flops(config, CONTEXT, "blocks.1.hook_resid_pre") == 2 * layer
        assert model_bytes(config, "float32") == 4 * (LAYERS * (attention + mlp) + 2 * D_MODEL * VOCAB)
        assert widest(config) == (D_MLP if mlp else HEADS * D_HEAD)


def test_a_plan_takes_the_backend_that_can_and_names_what_attention_only_lacks(
    fresh: Path, lmsae: Callable[..., Said]
) -> None:
    write_lens_model(fresh / "lens", "attn_only", 257)
    own = {"model.name": "lens", "model.backend": "transformerlens", "tokenize.tokenizer": "model"}
    write_sweep(fresh, [{**ROWS[0], **own}])
    assert lmsae("plan").code == 0
    write_sweep(fresh, [{**ROWS[0], **own, "model.backend": "huggingface"}])
    said = lmsae("plan")
    told = "row top, column model.backend: huggingface does not know the model, which is one of TransformerLens's own"
    assert (said.code, told in said.err) == (2, True), said
    write_sweep(fresh, [{**ROWS[0], **own, "sae.hook_point": "blocks.1.hook_mlp_out"}])
    said = lmsae("plan")
    told = "column sae.hook_point: this model has no blocks.1.hook_mlp_out: its layers have an attention and no MLP"
    assert (said.code, told in said.err) == (2, True), said
    write_sweep(fresh, [{**ROWS[0], **own, "tokenize.tokenizer": ""}])
    said = lmsae("plan")  # its config.json names a tokenizer that is not there
    assert (said.code, "column tokenize.tokenizer: model some/tokenizer cannot be had" in said.err) == (2, True), said


def test_a_model_of_the_hub_is_downloaded_without_its_checkpoints(
    tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_lens_model(tmp_path / "model", "attn_only")
    name, commit = "NeelNanda/Attn_Only_2L512W_C4_Code", "1" * 40
    assert model_name("attn-only-2l") == name
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    files |= {"README.md": b"a model", "checkpoints/attn_000100.pth": b"not asked for"}
    with start_hub() as hub:
        turn_client_to(hub, tmp_path / "cache", monkeypatch)
        hub.repositories[name] = Repository(commits={commit: files}, branches={"main": commit})
        found = resolve(name)
        assert (found.revision, hook_points(read_config(found))["blocks.0.hook_attn_out"]) == (commit, D_MODEL)
        assert not hub.count(r"\.pth")  # to plan, the config is enough
        model = load(found, backend="transformerlens", dtype="float32", device="cpu")
        assert hub.count(r"model_final\.pth") > 0
        assert not hub.count(r"checkpoints/")
    torch.testing.assert_close(model.logits(tokens).double(), compute("attn_only", weights, tokens)["logits"], **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attn_only", "solu"])
def test_a_dictionary_is_trained_measured_and_described_on_one(
    kind: str, fresh: Path, lmsae: Callable[..., Said]
) -> None:
    weights = write_lens_model(fresh / "lens", kind, 257)
    row = {**ROWS[0], "model.name": "lens", "model.backend": "transformerlens", "tokenize.tokenizer": "model"}
    write_sweep(fresh, [{**row, "sae.hook_point": "blocks.1.hook_attn_out", "train.eval_steps": "8"}])
    make_until("features")
    (file,) = (fresh / "artifacts" / "eval").glob("*/metrics.json")
    (text,) = (fresh / "artifacts" / "tokenize").iterdir()
    group: Any = zarr.open_group(text / "tokens.zarr", mode="r")
    held_out = torch.from_numpy(group["held_out"][:32].astype("int64"))
    logits = compute(kind, weights, held_out)["logits"]
    counted = held_out[:, :-1] != 0  # the beginning of a document
    clean = torch.nn.functional.cross_entropy(logits[:, :-1][counted], held_out[:, 1:][counted])
    assert json.loads(file.read_text())["ce_clean"] == pytest.approx(float(clean), rel=1e-4)
    dictionary = Dictionary.load(next((fresh / "artifacts" / "train").iterdir()))
    code, x = torch.zeros(2, 64), torch.zeros(2, D_MODEL)
    code[1, 7] = 1
    nothing, written = dictionary.decode(code, x).detach()
    gain = weights.get("ln_final.w", torch.ones(()))
    rows = weights["unembed.W_U"].T * gain
    raised = (written - nothing) @ (rows - rows.mean(1, keepdim=True)).T
    best = package.features("top").latent(7)["promoted"][0]
    assert (best["token"], best["logit"]) == (int(raised.argmax()), pytest.approx(float(raised.max()), rel=1e-3))
