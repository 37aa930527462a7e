"""HuggingFace and TransformerLens backends against one another, against transformers, and against the protocol."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lmsae.errors import HookPointError, ShapeError, SourceError
from lmsae.lm import huggingface, load, resolve, transformerlens
from lmsae.lm.hook_points import family_of
from tests.lm.conftest import BRIDGED, CONFIGS, NOT_BRIDGED

BACKENDS = {"huggingface": huggingface, "transformerlens": transformerlens}
# Two ways to compute attention in float32 differ by a few units in the last place of activations of size ten.
TOLERANCE: dict[str, Any] = {"atol": 3e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def backend_of(model_folder):
    made = {}

    def backend(name, family):
        if (name, family) not in made:
            made[name, family] = BACKENDS[name].load(model_folder(family), "float32", "cpu")
        return made[name, family]

    return backend


PAIRS = [*(("huggingface", family) for family in CONFIGS), *(("transformerlens", family) for family in BRIDGED)]


@pytest.fixture(params=PAIRS, ids="-".join)
def lm(request, backend_of):
    """Each backend of each family in turn."""
    return backend_of(*request.param)


@pytest.fixture(params=BACKENDS)
def llama(request, backend_of):
    return backend_of(request.param, "llama")


def rolled(activations):
    """An edit that a norm cannot undo, as it would a change of scale or mean."""
    return activations.roll(1, dims=-1)


def test_backends_agree_at_every_hook_point(backend_of, bridged, tokens):
    hf, bridge = backend_of("huggingface", bridged), backend_of("transformerlens", bridged)
    names = list(hf.hook_points())
    assert bridge.hook_points() == hf.hook_points()
    ours, theirs = hf.read(tokens, names), bridge.read(tokens, names)
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(hf.logits(tokens), bridge.logits(tokens), **TOLERANCE)


@pytest.mark.slow
def test_backends_agree_on_the_logits_of_an_edit_at_every_hook_point(backend_of, bridged, tokens):
    hf, bridge = backend_of("huggingface", bridged), backend_of("transformerlens", bridged)
    clean = hf.logits(tokens)
    for name in hf.hook_points():
        ours, theirs = hf.logits_with(tokens, {name: rolled}), bridge.logits_with(tokens, {name: rolled})
        torch.testing.assert_close(ours, theirs, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
        assert (ours - clean).abs().max() > 0.05, f"an edit at {name} changed nothing"


def test_backends_agree_on_the_gradients_of_an_edit(backend_of, bridged, tokens):
    known = backend_of("huggingface", bridged).hook_points()
    kinds = [kind for kind in ("hook_mlp_out", "ln1.hook_normalized", "hook_resid_post") if f"blocks.1.{kind}" in known]
    for kind in kinds:
        gradients = []
        for backend in BACKENDS:
            lm, name = backend_of(backend, bridged), f"blocks.1.{kind}"
            added = torch.zeros_like(lm.read(tokens, [name])[name], requires_grad=True)
            logits = lm.logits_with(tokens, {name: lambda x, added=added: x + added})
            gradients += torch.autograd.grad(logits.log_softmax(-1)[..., 0].sum(), added)
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
        assert gradients[0].abs().max() > 1e-3, kind


READERS = {"opt": "fc1", "opt_post_norm": "fc1", "mamba": "mixer"}
"""The module that the last norm of a layer is for, in families where it is no `mlp`."""


def test_what_the_last_norm_of_a_layer_makes_is_what_is_read_behind_it(backend_of, family, tokens):
    """Against the modules of transformers themselves, called with what is read."""
    lm = backend_of("huggingface", family)
    names = [name for name in lm.hook_points() if name.startswith("blocks.1.") and "hook_normalized" in name]
    seen = {}
    layer = lm._model.get_submodule(f"{family_of(lm.config).layers}.1")
    reader = layer.get_submodule(READERS.get(family, "mlp"))
    handle = reader.register_forward_pre_hook(lambda module, inputs: seen.update(read=inputs[0]))
    read = lm.read(tokens, [*names, "blocks.2.hook_resid_pre"])
    handle.remove()
    assert len(names) == {"olmo2": 0, "opt_post_norm": 0, "mamba": 0, "phi": 1, "falcon": 1}.get(family, 2)
    if names:
        assert torch.equal(read[names[-1]].reshape(seen["read"].shape), seen["read"])


def test_residuals_are_the_hidden_states_of_transformers(backend_of, family, model_folder, tokens):
    # Where weights want gradients, torch multiplies a transposed input (as of Mamba) in other shapes and rounds so.
    model = AutoModelForCausalLM.from_pretrained(model_folder(family)).eval().requires_grad_(False)
    with torch.no_grad():
        output = model(tokens, output_hidden_states=True)
    lm = backend_of("huggingface", family)
    *inner, _after_the_final_norm = output.hidden_states
    side = "hook_resid_post" if family == "mamba" else "hook_resid_pre"  # Mamba's do not begin with the embedding
    read = lm.read(tokens, [f"blocks.{layer}.{side}" for layer in range(len(inner))])
    assert all(torch.equal(a, b) for a, b in zip(read.values(), inner, strict=True))
    assert torch.equal(lm.logits(tokens), output.logits)


def test_a_model_that_a_bridge_computes_otherwise_is_refused(model_folder):
    for family, said in NOT_BRIDGED.items():
        with pytest.raises(SourceError, match=rf"{said}.*set model.backend to huggingface"):
            transformerlens.load(model_folder(family), "float32", "cpu")


# In the others a norm stands over the whole residual stream, or there is no attention and no MLP.
SUMMING = [pair for pair in PAIRS if pair[1] not in ("opt_post_norm", "mamba")]
of_sums = pytest.mark.parametrize("lm", SUMMING, indirect=True, ids="-".join)


@of_sums
def test_the_last_residual_is_the_one_before_the_final_norm(lm, tokens):
    names = list(lm.hook_points())
    read = lm.read(tokens, names)
    layer = names[-1].removesuffix(".hook_resid_post")
    parts = [read[f"{layer}.{kind}"] for kind in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")]
    torch.testing.assert_close(read[names[-1]], sum(parts), **TOLERANCE)


@of_sums
def test_what_sublayers_add_makes_the_residual(lm, tokens):
    read = lm.read(tokens, list(lm.hook_points()))
    after_attention = read["blocks.1.hook_resid_pre"] + read["blocks.1.hook_attn_out"]
    torch.testing.assert_close(
        after_attention + read["blocks.1.hook_mlp_out"], read["blocks.1.hook_resid_post"], **TOLERANCE
    )
    if "blocks.1.hook_resid_mid" in read:
        torch.testing.assert_close(after_attention, read["blocks.1.hook_resid_mid"], **TOLERANCE)


def test_an_edit_that_changes_nothing_leaves_logits_as_they_were_bit_for_bit(lm, tokens):
    edits = dict.fromkeys(lm.hook_points(), lambda activations: activations.clone())
    assert torch.equal(lm.logits_with(tokens, edits), lm.logits(tokens))


def test_an_edit_of_the_residual_leaves_nothing_of_what_was_there_before(lm, tokens):
    """Two contexts that hold one residual at layer 1 hold the same logits, whatever their tokens."""
    replacement = torch.randn(1, *lm.read(tokens, ["blocks.1.hook_resid_pre"])["blocks.1.hook_resid_pre"].shape[1:])
    for name in (name for name in lm.hook_points() if name.startswith("blocks.1.hook_resid")):
        first, second = lm.logits_with(tokens, {name: lambda x: replacement.expand_as(x)})
        torch.testing.assert_close(first, second, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_an_edit_of_resid_mid_sums_with_edits_of_the_same_layer(llama, tokens):
    """Checked against the layer's own arithmetic: resid_post = resid_mid + mlp_out, each after its edit."""
    seen = {}

    def seeing(name, edit):
        def edited(activations):
            seen[name] = activations, edit(activations)
            return seen[name][1]

        return edited

    kinds = ("hook_resid_mid", "hook_mlp_out", "hook_resid_post")
    llama.logits_with(tokens, {f"blocks.1.{kind}": seeing(kind, rolled) for kind in kinds})
    before, _ = seen["hook_resid_post"]
    torch.testing.assert_close(before, seen["hook_resid_mid"][1] + seen["hook_mlp_out"][1])


def test_later_layers_see_an_edit_and_earlier_positions_do_not(llama, tokens):
    def last_token_zeroed(activations):
        return torch.cat([activations[:, :-1], torch.zeros_like(activations[:, -1:])], dim=1)

    edited = llama.logits_with(tokens, {"blocks.0.hook_mlp_out": last_token_zeroed})
    clean = llama.logits(tokens)
    torch.testing.assert_close(edited[:, :-1], clean[:, :-1], **TOLERANCE)
    assert not torch.allclose(edited[:, -1], clean[:, -1], atol=1e-2)


def test_a_read_runs_no_layer_after_the_last_hook_point(lm, tokens):
    calls = []
    model = lm._model if hasattr(lm, "_model") else lm._bridge.original_model
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: calls.append(name))
        for name, module in model.named_modules()
        if list(module.parameters(recurse=False))
    ]
    lm.read(tokens, [name for name in lm.hook_points() if not name.startswith("blocks.2.")])
    for handle in handles:
        handle.remove()
    assert calls
    assert not [name for name in calls if ".2." in name or "lm_head" in name]


def test_a_read_stopped_early_leaves_the_model_as_it_was(lm, tokens):
    before = lm.logits(tokens)
    lm.read(tokens, list(lm.hook_points())[2:3])
    assert torch.equal(lm.logits(tokens), before)
    with pytest.raises(ZeroDivisionError):
        lm.logits_with(tokens, {"blocks.1.hook_resid_post": lambda activations: activations * (1 / 0)})
    assert torch.equal(lm.logits(tokens), before)


def test_a_read_gives_hook_points_in_the_order_asked_for_and_each_once(llama, tokens):
    names = ["blocks.2.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.2.hook_resid_pre"]
    assert list(llama.read(tokens, names)) == names[:2]


def test_company_in_a_read_changes_nothing(lm, tokens):
    together = lm.read(tokens, list(lm.hook_points()))
    for name, activations in together.items():
        assert torch.equal(lm.read(tokens, [name])[name], activations), name


def test_tokens_read_a_few_at_a_time_give_what_they_give_together(lm, tokens):
    name = "blocks.1.hook_resid_post"
    parts = tokens.split([5, 1, 6], dim=1)
    cache, edited, read = lm.start_cache(), lm.start_cache(), lm.start_cache()
    if cache is None:
        assert lm.config["model_type"] == "mamba"
        return
    by_parts = [lm.logits_with(part, {}, cache) for part in parts]
    torch.testing.assert_close(torch.cat(by_parts, dim=1), lm.logits(tokens), **TOLERANCE)
    by_parts = [lm.logits_with(part, {name: rolled}, edited) for part in parts]
    torch.testing.assert_close(torch.cat(by_parts, dim=1), lm.logits_with(tokens, {name: rolled}), **TOLERANCE)
    by_parts = [lm.read(part, [name], read)[name] for part in parts]
    torch.testing.assert_close(torch.cat(by_parts, dim=1), lm.read(tokens, [name])[name], **TOLERANCE)


def test_an_edit_in_float32_of_a_bfloat16_model_is_cast(model_folder, tokens):
    lm = huggingface.load(model_folder("llama"), "bfloat16", "cpu")
    assert lm.read(tokens, ["blocks.0.hook_resid_post"])["blocks.0.hook_resid_post"].dtype == torch.bfloat16
    edited = lm.logits_with(tokens, {"blocks.0.hook_resid_post": lambda activations: activations.float()})
    assert torch.equal(edited, lm.logits(tokens))


def test_an_edit_of_another_shape_is_refused(llama, tokens):
    with pytest.raises(ShapeError, match=r"\(2, 12, 32\) into \(2, 12, 31\)"):
        llama.logits_with(tokens, {"blocks.0.hook_resid_post": lambda activations: activations[..., 1:]})


def test_a_token_beyond_the_vocabulary_is_refused(llama, tokens):
    beyond = torch.where(tokens == tokens[0, 0], llama.d_vocab, tokens)
    for use in (llama.logits, lambda batch: llama.read(batch, ["blocks.0.hook_resid_post"])):
        with pytest.raises(SourceError, match=f"token id {llama.d_vocab} is beyond the model's vocabulary"):
            use(beyond)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hook_point_that_is_not_there_is_refused_by_name(backend_of, backend, tokens):
    with pytest.raises(HookPointError, match=r"did you mean blocks\.0\.hook_resid_post"):
        backend_of(backend, "llama").read(tokens, ["blocks.0.hook_residpost"])
    with pytest.raises(HookPointError, match="parallel"):
        backend_of(backend, "phi").logits_with(tokens, {"blocks.0.hook_resid_mid": rolled})


def test_weights_want_no_gradient_and_the_model_knows_its_sizes(llama):
    assert (llama.d_vocab, llama.max_context, llama.device) == (61, 64, torch.device("cpu"))
    model = llama._model if hasattr(llama, "_model") else llama._bridge.original_model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_loading_is_silent(model_folder):
    code = (
        "from lmsae.lm import load, resolve\n"
        f"for backend in {list(BACKENDS)}:\n"
        f"    load(resolve({str(model_folder('llama'))!r}), backend=backend, dtype='float32', device='cpu')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resolved_folder_loads_in_the_dtype_asked_for(backend, model_folder, tokens):
    lm = load(resolve(str(model_folder("gpt2"))), backend=backend, dtype="bfloat16", device="cpu")
    assert lm.logits(tokens).dtype == torch.bfloat16
