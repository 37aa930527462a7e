"""The straight way from a hook point to logits: projection, final norm and unembedding, and no later layer.

logits = ((x - mean(x)) / size(x) * gain + shift) W_U with a layer norm, and the same without the mean with an RMS norm.
A direction d of the residual stream therefore adds d R^T / size(x) to them, where R = (W_U gain), less its mean over
d_model with a layer norm. size(x) is a number of each token, which is left out here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lmsae.errors import SourceError
from lmsae.lm.family import Ending
from lmsae.lm.hook_points import family_of, is_module, split

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lmsae.lm.protocol import LanguageModel

UNEMBEDDING = "lm_head.weight"
STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
"""Hook points that are the residual stream itself: a later one holds all that an earlier one does."""
_ADDED = ("hook_attn_out", "hook_mlp_out")
_PROJECTED = {"attn.hook_z": "hook_attn_out", "mlp.hook_post": "hook_mlp_out"}
"""Hook points before an output projection, and where that ends if no norm follows it."""


def obstacle(config: Mapping[str, object], hook_point: str) -> str | None:
    """The reason that what is written at a hook point does not reach the logits on a straight way; None if it does."""
    family = family_of(config)
    if why := family.unusable(config).get("logits"):
        return why
    if family.ending is None:
        return "the model has no logits"
    if is_module(hook_point):
        return f"lmsae does not know what becomes of {hook_point}, which is named by its module"
    kind = split(hook_point)[1]
    if kind in (*STREAM, *_ADDED):
        return None
    if kind not in _PROJECTED:
        return f"{hook_point} is read by the layer's attention or MLP alone"
    ends, projection = family.hook_points[_PROJECTED[kind]], family.hook_points[kind]
    if projection.module.startswith(ends.module):
        return None
    return f"a norm stands between the output projection of {hook_point} and the residual stream"


def projection_at(model: "LanguageModel", hook_point: str) -> "Float[Tensor, 'width d_model'] | None":
    """The matrix that takes what is written at a hook point, from the right, to the residual stream; None where it is
    written there already."""
    layer, kind = split(hook_point)
    if kind not in _PROJECTED:
        return None
    family = family_of(model.config)
    weight = model.weights[f"{family.layers}.{layer}.{family.hook_points[kind].module}.weight"].detach().float()
    return weight.T if family.projections.transposed else weight


def unembedding_rows(model: "LanguageModel") -> "Float[Tensor, 'tokens d_model']":
    """R of the module's docstring, float32: what each token's logit reads, with the final norm's weight taken in.

    Raises SourceError if the unembedding is nowhere among the weights.
    """
    ending = family_of(model.config).ending
    assert ending is not None, "obstacle() has been asked"
    gain = model.weights[f"{ending.norm}.weight"].detach().float()
    rows = _rows(model, ending).detach().float() * (gain + 1 if ending.kind == "rms_around_one" else gain)
    return rows - rows.mean(1, keepdim=True) if ending.kind == "layer" else rows


def _rows(model: "LanguageModel", ending: Ending) -> "Tensor":
    if (rows := model.weights.get(UNEMBEDDING)) is not None:
        return rows
    if not model.config.get("tie_word_embeddings"):
        raise SourceError(
            f"this {model.config['model_type']} model has no weights {UNEMBEDDING!r}, and its config.json does not say "
            "that its embedding stands for them (tie_word_embeddings). Set features.logits to 0, and there are none."
        )
    return model.weights[f"{ending.embedding}.weight"]
