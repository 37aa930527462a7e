"""The straight way to logits, in every family, against the logits that the model itself computes."""

from collections.abc import Callable
from pathlib import Path

import torch

from lmsae.lm import huggingface
from lmsae.lm.families import FAMILIES
from lmsae.lm.hook_points import family_of
from lmsae.lm.unembedding import obstacle, projection_at, unembedding_rows


def test_logits_are_the_last_residual_times_the_rows(
    family: str, model_folder: Callable[[str], Path], tokens: torch.Tensor
) -> None:
    """But for the norm's size, a number of each token, and what its shift and the unembedding's bias add to all."""
    lm = huggingface.load(model_folder(family), "float32", "cpu")
    if family == "opt_post_norm":
        assert "a norm of all that is there" in str(obstacle(lm.config, "blocks.2.hook_resid_post"))
        return
    x = lm.read(tokens, ["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"].double()
    ending = family_of(lm.config).ending
    assert ending is not None
    if ending.kind == "layer":
        size = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    else:
        size = (
            x.square().mean(-1, keepdim=True) + lm.config["layer_norm_epsilon" if family == "mamba" else "rms_norm_eps"]
        ).sqrt()
    straight = (x / size) @ unembedding_rows(lm).double().T
    logits = lm.logits(tokens).double()
    cap = lm.config.get("final_logit_softcapping")
    if cap and not family.startswith("gemma3"):  # transformers leaves Gemma 3's out
        logits = cap * (logits / cap).atanh()
    added = logits - straight
    torch.testing.assert_close(added, added[:1, :1].expand_as(added), atol=2e-4, rtol=1e-4)


def test_what_is_written_before_a_projection_reaches_the_stream_through_it(
    family: str, model_folder: Callable[[str], Path], tokens: torch.Tensor
) -> None:
    lm = huggingface.load(model_folder(family), "float32", "cpu")
    for before, behind in (("attn.hook_z", "hook_attn_out"), ("mlp.hook_post", "hook_mlp_out")):
        names = [f"blocks.1.{before}", f"blocks.1.{behind}"]
        if names[0] not in lm.hook_points():
            assert family in ("mixtral", "qwen3_moe", "mamba")
            continue
        if obstacle(lm.config, names[0]):
            assert "a norm " in str(obstacle(lm.config, names[0]))
            assert family in ("gemma2", "gemma3_text", "gemma3", "olmo2", "opt_post_norm")
            continue
        read, matrix = lm.read(tokens, names), projection_at(lm, names[0])
        assert matrix is not None
        added = read[names[1]] - read[names[0]] @ matrix
        torch.testing.assert_close(added, added[:1, :1].expand_as(added), atol=1e-4, rtol=1e-4)
        assert projection_at(lm, names[1]) is None


def test_every_family_has_an_answer_for_every_hook_point() -> None:
    for name, family in FAMILIES.items():
        for kind in family.hook_points:
            reason = obstacle({"model_type": name}, f"blocks.0.{kind}")
            assert (reason is not None) == (
                kind.endswith("hook_normalized")
                or (
                    name.startswith(("gemma2", "gemma3", "olmo2"))
                    and "resid" not in kind
                    and kind in ("attn.hook_z", "mlp.hook_post")
                )
            ), (name, kind, reason)
