"""The model of known features: its name, its statistics, its truth, and the LanguageModel protocol."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsae.errors import HookPointError, ShapeError, SourceError
from lmsae.lm import counter, load, read_config, resolve
from lmsae.lm.features import Features
from lmsae.lm.hook_points import hook_points, max_context, require
from lmsae.lm.resolving import ResolvedModel, default_tokenizer, features_of, tokenizer_folder
from lmsae.lm.synthetic import SyntheticModel

NETWORK = "builtin:features?features=40&width=24&probability=0.1&moved=3&erased=4&noise=0.05"
FIRST = "blocks.0.hook_resid_pre"
GOLDEN_FIRING = [[2, 130, 216, 223, 233, 246], [56, 158, 247], [34, 79, 139]]
GOLDEN_SUM = 10.9540863
GOLDEN_DIRECTION = [-0.0597253, -0.1059235, -0.3255195]


def made(name, device="cpu"):
    lm = load(resolve(name), backend="huggingface", dtype="float32", device=device)
    assert isinstance(lm, SyntheticModel)
    return lm


def some_tokens(contexts, context_size=64, seed=3):
    return torch.randint(0, 4096, (contexts, context_size), generator=torch.Generator().manual_seed(seed))


def amounts_of(query, contexts=600):
    """The amounts of many tokens (tokens, known), and the features themselves."""
    lm = made(f"builtin:features?{query}")
    return lm.amounts(some_tokens(contexts)).flatten(0, 1), lm.features


@pytest.fixture(scope="module")
def lm():
    return made(NETWORK)


# The name


def test_one_set_of_numbers_has_one_name_and_revision_however_it_is_written():
    written = resolve("builtin:features?seed=1&noise=1e-2&width=064&features=512")
    assert written == resolve("builtin:features?features=512&seed=1")
    assert written.name == "builtin:features?features=512&seed=1"
    assert resolve("builtin:features?").name == "builtin:features"
    assert resolve(written.name, written.revision) == written


def test_every_number_is_part_of_the_revision():
    changed = {
        "features": 260, "width": 65, "probability": 0.03, "skew": 1, "spread": 0.1, "group": "2&correlation=0.5",
        "correlation": "0.4&group=2", "children": 3, "child_probability": "0.4&children=1", "layers": 3, "moved": 1,
        "erased": 1, "noise": 0, "d_vocab": 99, "seed": 1,
    }  # fmt: skip
    assert changed.keys() == Features.model_fields.keys()
    revisions = {resolve(f"builtin:features?{name}={value}").revision for name, value in changed.items()}
    assert len(revisions | {resolve("builtin:features").revision}) == len(changed) + 1


def test_the_revision_and_the_first_numbers_are_these():
    """Should this fail, the same name means other activations: raise features.GENERATOR."""
    lm = made("builtin:features")
    assert resolve("builtin:features").revision == "digest:86b06c8f6720c3ad"
    amounts = lm.amounts(torch.tensor([[0, 1, 2]]))[0]
    assert [row.nonzero().flatten().tolist() for row in amounts] == GOLDEN_FIRING
    assert amounts.sum().item() == pytest.approx(GOLDEN_SUM, abs=1e-6)
    assert lm.directions(FIRST)[0, :3].tolist() == pytest.approx(GOLDEN_DIRECTION, abs=1e-6)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("widht=64", "no number 'widht'; did you mean width"),
        ("width=wide", "width=wide: input should be a valid integer"),
        ("width=", "width=: input should be a valid integer"),
        ("probability=2&noise=-1", r"probability=2: .*less than or equal to 1; noise=-1: .*greater than"),
        ("seed=1&seed=2", "given twice"),
        ("children=2&features=256", "cannot be parted into parents with 2 children each: take a multiple of 3"),
        ("group=4", "group and correlation need each other"),
        ("correlation=0.5", "group and correlation need each other"),
        ("child_probability=0.3", "child_probability needs children"),
        ("moved=100&erased=100", "2 layers that move 100 and erase 100 each need more than features=256"),
        ("probability=0.5&skew=2", "a rate of 78.00, above 1"),
    ],
)
def test_a_name_that_cannot_be_is_met_with_what_is_wrong_with_it(query, message):
    with pytest.raises(SourceError, match=message):
        resolve(f"builtin:features?{query}")


def test_a_revision_of_another_generator_is_refused_when_planned_and_when_run():
    with pytest.raises(SourceError, match="digest:0 was asked for"):
        resolve("builtin:features", "digest:0")
    planned = ResolvedModel(name="builtin:features", revision="digest:0")
    for use in (
        features_of,
        read_config,
        lambda model: load(model, backend="huggingface", dtype="float32", device="cpu"),
    ):
        with pytest.raises(SourceError, match="plan again"):
            use(planned)


def test_a_misspelled_builtin_model_is_met_with_this_one_too():
    with pytest.raises(SourceError, match="did you mean builtin:features"):
        resolve("builtin:feature")


def test_it_borrows_a_tokenizer_and_says_so():
    model = resolve("builtin:features")
    assert default_tokenizer(model) == "builtin:stdlib-4m"
    assert default_tokenizer(resolve("builtin:stdlib-4m")) is None
    with pytest.raises(SourceError, match=r"tokenize\.tokenizer = builtin:stdlib-4m"):
        tokenizer_folder(model)
    assert read_config(model)["vocab_size"] == read_config(resolve("builtin:stdlib-4m"))["vocab_size"]


def test_the_other_backend_is_refused():
    with pytest.raises(SourceError, match="no backends"):
        load(resolve(NETWORK), backend="transformerlens", dtype="float32", device="cpu")


# The plan


def test_widths_are_foretold_without_torch(lm):
    code = (
        "import sys\nfrom lmsae.lm import read_config, resolve\nfrom lmsae.lm.hook_points import hook_points\n"
        f"print(len(hook_points(read_config(resolve({NETWORK!r})))), 'torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["10", "False"]
    foretold = hook_points(lm.config)
    assert foretold == lm.hook_points()
    assert set(foretold.values()) == {24}
    assert max_context(lm.config) is None


def test_attention_that_moves_nothing_is_no_hook_point():
    config = read_config(resolve("builtin:features"))
    assert not any(name.endswith("hook_attn_out") for name in hook_points(config))
    with pytest.raises(HookPointError, match="add moved=8"):
        require("blocks.0.hook_attn_out", config)
    with pytest.raises(HookPointError, match="2 layers"):
        require("blocks.2.hook_resid_post", config)


# What is random and what is not


def test_splitmix64_gives_its_published_numbers():
    """The first outputs of splitmix64 seeded with 1234567, as in Vigna's reference code."""
    golden = 0x9E3779B97F4A7C15 - 2**64
    state = torch.tensor(1234567) + golden * torch.arange(1, 4)
    assert [value % 2**64 for value in counter.mix(state).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(st.integers(1, 5), st.integers(0, 2**40))
def test_batches_never_matter_bit_for_bit(size, seed):
    lm, tokens = made("builtin:features?features=12&width=8&probability=0.3&moved=2"), some_tokens(6, 9, seed)
    parts = tokens.split(size)
    for use in (lm.amounts, lambda batch: lm.read(batch, ["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]):
        assert torch.equal(use(tokens), torch.cat([use(part) for part in parts]))


def test_amounts_depend_on_nothing_that_comes_later_and_on_all_that_came_before(lm):
    tokens = some_tokens(1, 200)
    whole = lm.amounts(tokens)
    assert torch.equal(lm.amounts(tokens[:, :50]), whole[:, :50])
    first_changed = torch.cat([tokens[:, :1] + 1, tokens[:, 1:]], dim=1)
    assert (lm.amounts(first_changed) != whole).any(dim=-1).float().mean() > 0.9


def test_order_and_position_of_tokens_matter(lm):
    amounts = lm.amounts(torch.tensor([[1, 2, 3], [2, 1, 3], [3, 3, 3]]))
    assert not torch.equal(amounts[0, 2], amounts[1, 2])
    assert not torch.equal(amounts[2, 0], amounts[2, 1])


def test_another_process_makes_the_same_bits(lm):
    tokens = some_tokens(2, 9)
    code = (
        "import torch\ntorch.set_num_threads(1)\nfrom lmsae.lm import load, resolve\n"
        f"lm = load(resolve({NETWORK!r}), backend='huggingface', dtype='float32', device='cpu')\n"
        f"print(lm.read(torch.tensor({tokens.tolist()}), [{FIRST!r}])[{FIRST!r}].numpy().tobytes().hex())"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert printed == lm.read(tokens, [FIRST])[FIRST].numpy().tobytes().hex()


def test_another_seed_has_other_features_that_fire_elsewhere(lm):
    other, tokens = made(f"{NETWORK}&seed=1"), some_tokens(4)
    together = ((lm.amounts(tokens) > 0) & (other.amounts(tokens) > 0)).float().mean()
    assert together.item() == pytest.approx(0.1**2, abs=0.003)
    cosines = (lm.directions(FIRST)[:40] @ other.directions(FIRST)[:40].T).diagonal()
    assert cosines.abs().mean() < 0.3


# Statistics, each within five standard errors


def assert_rates(fires, rates):
    error = np.sqrt(np.array(rates) * (1 - np.array(rates)) / len(fires))
    assert (np.abs(fires.double().mean(0).numpy() - rates) < 5 * error).all()


def test_features_fire_at_their_rates():
    amounts, features = amounts_of("features=32&probability=0.05&skew=1")
    rates = 1 / np.arange(1, 33)
    rates *= 0.05 / rates.mean()
    assert features.rates() == pytest.approx(rates)
    assert_rates(amounts > 0, rates)


def test_features_without_a_group_fire_independently():
    amounts, _ = amounts_of("features=16&probability=0.1")
    correlations = np.corrcoef((amounts > 0).numpy().T)[np.triu_indices(16, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(len(amounts))


def test_features_of_a_group_fire_with_their_correlation():
    amounts, features = amounts_of("features=16&probability=0.1&group=4&correlation=0.6")
    assert_rates(amounts > 0, features.rates())
    correlations = np.corrcoef((amounts > 0).numpy().T)
    same = np.arange(16)[:, None] // 4 == np.arange(16) // 4
    assert np.abs(correlations[same & ~np.eye(16, dtype=bool)] - 0.6).max() < 0.05
    assert np.abs(correlations[~same]).max() < 0.03


def test_a_child_fires_only_with_its_parent_and_as_often_as_told():
    amounts, features = amounts_of("features=24&probability=0.1&children=2&child_probability=0.3")
    parents, children = amounts[:, :8] > 0, (amounts[:, 8:] > 0).reshape(-1, 8, 2)
    assert not (children & ~parents[..., None]).any()
    assert features.rates() == pytest.approx([0.1] * 8 + [0.03] * 16)
    assert_rates(amounts > 0, features.rates())
    both = (children[..., 0] & children[..., 1]).double().mean()
    assert both.item() == pytest.approx(0.1 * 0.3**2, rel=0.1)


def test_amounts_are_uniform_about_one():
    amounts, _ = amounts_of("features=16&probability=0.3&spread=0.2")
    present = np.sort(amounts[amounts > 0].numpy())
    assert 0.8 < present[0] < 0.801
    assert 1.199 < present[-1] < 1.2
    assert np.abs(present - np.linspace(0.8, 1.2, len(present))).max() < 0.4 * 1.63 / np.sqrt(len(present))
    assert set(amounts_of("features=4&spread=0&probability=0.5", 2)[0].unique().tolist()) == {0.0, 1.0}


def test_noise_is_normal_with_its_standard_deviation_in_every_residual_and_nowhere_else(lm):
    tokens = some_tokens(200)
    read, amounts = lm.read(tokens, list(lm.hook_points())), lm.amounts(tokens)
    for name, activations in read.items():
        noise = (activations - amounts @ lm.directions(name)).double().flatten()
        if "resid" not in name:
            assert noise.abs().max() < 1e-5, name
            continue
        error = 0.05 / np.sqrt(len(noise))
        assert abs(noise.mean().item()) < 5 * error
        assert noise.std().item() == pytest.approx(0.05, abs=5 * error)
        assert (noise / noise.std()).pow(4).mean().item() == pytest.approx(3, abs=5 * np.sqrt(96 / len(noise)))


# The truth


def test_directions_have_norm_one_in_the_residual_where_the_feature_is_there(lm):
    for name in lm.hook_points():
        norms = lm.directions(name).norm(dim=1)
        if name.endswith("hook_mlp_out"):
            continue
        assert torch.all(torch.isclose(norms, torch.ones(())) | (norms == 0)), name
    there = {name: lm.directions(name).any(dim=1) for name in lm.hook_points()}
    own = torch.arange(46) < 40
    assert torch.equal(there[FIRST], own)
    assert there["blocks.0.hook_attn_out"].nonzero().flatten().tolist() == [40, 41, 42]
    assert there["blocks.1.hook_attn_out"].nonzero().flatten().tolist() == [43, 44, 45]
    assert (~there["blocks.1.hook_resid_post"]).nonzero().flatten().tolist() == [*range(32, 40)]


def test_each_layer_turns_directions_by_about_45_degrees():
    lm = made("builtin:features")
    before, after = (lm.directions(f"blocks.1.hook_resid_{place}") for place in ("pre", "post"))
    assert (before * after).sum(1).mean().item() == pytest.approx(0.5**0.5, abs=0.01)


def test_what_attention_writes_is_the_features_of_the_token_before(lm):
    amounts = lm.amounts(some_tokens(20))
    assert torch.equal(amounts[:, 1:, 40:], amounts[:, :-1, :6])
    assert not amounts[:, 0, 40:].any()


def test_a_hook_point_that_is_not_there_has_no_directions(lm):
    with pytest.raises(HookPointError, match="did you mean"):
        lm.directions("blocks.0.resid_pre")


# The protocol


def test_activations_are_sums_of_directions_and_sublayers_make_the_residual(lm):
    read = lm.read(some_tokens(3), list(lm.hook_points()))
    total = sum(read[f"blocks.1.hook_{kind}"] for kind in ("resid_pre", "attn_out", "mlp_out"))
    torch.testing.assert_close(total, read["blocks.1.hook_resid_post"])
    torch.testing.assert_close(read["blocks.0.hook_resid_post"], read["blocks.1.hook_resid_pre"])


def test_a_read_gives_hook_points_in_the_order_asked_for_and_company_changes_nothing(lm):
    names, tokens = ["blocks.1.hook_mlp_out", FIRST, "blocks.1.hook_mlp_out"], some_tokens(3)
    read = lm.read(tokens, names)
    assert list(read) == names[:2]
    assert all(torch.equal(lm.read(tokens, [name])[name], read[name]) for name in read)


def test_an_edit_that_changes_nothing_leaves_logits_as_they_were_bit_for_bit(lm):
    tokens = some_tokens(3)
    edits = dict.fromkeys(lm.hook_points(), lambda activations: activations.clone())
    assert torch.equal(lm.logits_with(tokens, edits), lm.logits(tokens))


def test_an_edit_at_any_hook_point_takes_its_place_and_reaches_the_logits(lm):
    tokens = some_tokens(3)
    clean = lm.logits(tokens)
    for name in lm.hook_points():
        zeroed = lm.logits_with(tokens, {name: torch.zeros_like})
        doubled = lm.logits_with(tokens, {name: lambda activations: 2 * activations})
        assert (zeroed - clean).abs().max() > 0.05, name
        torch.testing.assert_close(zeroed + doubled, 2 * clean, atol=1e-4, rtol=1e-4)
    last = lm.logits_with(tokens, {"blocks.1.hook_resid_post": lambda x: x[:1].expand_as(x)})
    assert torch.equal(last[0], last[2])


def test_an_edit_of_another_shape_or_a_token_beyond_the_vocabulary_is_refused(lm):
    with pytest.raises(ShapeError, match="must have their shape"):
        lm.logits_with(some_tokens(1), {FIRST: lambda activations: activations[..., 1:]})
    with pytest.raises(SourceError, match="beyond the model's vocabulary of 4,096"):
        lm.logits(torch.tensor([[4096]]))


def test_a_failed_edit_leaves_the_model_as_it_was(lm):
    tokens = some_tokens(1)
    before = lm.logits(tokens)
    with pytest.raises(ZeroDivisionError):
        lm.logits_with(tokens, {FIRST: lambda activations: activations * (1 / 0)})
    assert torch.equal(lm.logits(tokens), before)


def test_it_runs_in_the_dtype_asked_for(lm):
    tokens = some_tokens(1)
    half = load(resolve(NETWORK), backend="huggingface", dtype="bfloat16", device="cpu")
    assert half.read(tokens, [FIRST])[FIRST].dtype == half.logits(tokens).dtype == torch.bfloat16
    torch.testing.assert_close(
        half.read(tokens, [FIRST])[FIRST].float(), lm.read(tokens, [FIRST])[FIRST], atol=2e-2, rtol=1e-2
    )
    assert (half.d_vocab, half.max_context, half.device) == (4096, None, torch.device("cpu"))


@pytest.mark.gpu
def test_a_gpu_makes_the_same_amounts_bit_for_bit(lm):
    tokens = some_tokens(20)
    on_gpu = made(NETWORK, device="cuda")
    assert torch.equal(on_gpu.amounts(tokens).cpu(), lm.amounts(tokens))
    torch.testing.assert_close(on_gpu.logits(tokens).cpu(), lm.logits(tokens), atol=1e-3, rtol=1e-3)
