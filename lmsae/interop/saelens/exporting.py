"""A dictionary as a SAELens folder, and the obstacles to that."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lmsae.dictionary import normalizer
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.geometry.config import SAEConfig
from lmsae.interop.saelens.names import (
    ACT_FNS,
    ARCHITECTURES,
    AT_INFERENCE,
    CONFIG,
    NOTES,
    OWN_CONFIG,
    PER_TOKEN,
    SPARSITY,
    VERSION,
    WEIGHTS,
)
from lmsae.runtime.tensors import save_tensors

SMALLEST_DENSITY = 1e-10


def obstacle(config: DictionaryConfig) -> str | None:
    """The reason why SAELens has no exact counterpart of such a dictionary, with a way out, or None if it has one."""
    geometry, act_fn, normalization = config.geometry, config.act_fn, config.normalize_activations
    stay = "open it with lmsae instead: Dictionary.load(folder) reads and writes raw activations too."
    in_saelens = [known for geometry_kind, known in ARCHITECTURES.values() if geometry_kind == geometry.kind]
    if not in_saelens:
        return f"SAELens has no {geometry.kind}; {stay}"
    if AT_INFERENCE.get(act_fn.kind, act_fn.kind) not in in_saelens:
        named = f"SAELens has no {geometry.kind} with {act_fn.kind}, only with {', '.join(in_saelens)}"
        converted = (
            "make it a jumprelu first: `lmsae convert KEY FOLDER` writes a SAELens folder, and says at what cost."
        )
        return f"{named}; {stay if act_fn.not_jumprelu_because else converted}"
    if getattr(geometry, "glu_encoder", False):
        return f"SAELens has no gate on the encoder (glu_encoder); {stay}"
    if normalization == "layer_norm":
        return (
            "sae.normalize_activations is layer_norm: SAELens divides a token by its deviation + 0.00001, and "
            f"multiplies by the deviation alone; {stay}"
        )
    if normalization in PER_TOKEN and geometry.kind == "skip_transcoder":
        return f"sae.normalize_activations is {normalization}, but SAELens' W_skip reads tokens as they are; {stay}"
    if act_fn.needs_tied_encoder:
        return _tied_obstacle(config, stay)
    return None


def _tied_obstacle(config: DictionaryConfig, stay: str) -> str | None:
    """The reason why SAELens has no counterpart with the encoder tied to the decoder, or None if it has one."""
    kind, geometry = config.act_fn.kind, config.geometry
    assert isinstance(geometry, SAEConfig), f"SAELens has {kind} in SAEs only"
    if not geometry.tied_encoder:
        return f"SAELens' {kind} reads by its decoder transposed, and this one has an encoder of its own; {stay}"
    if not geometry.apply_b_dec_to_input:
        return f"SAELens' {kind} leaves b_dec out where apply_b_dec_to_input is false; {stay}"
    if config.normalize_activations == "whiten":
        return (
            f"sae.normalize_activations is whiten: folded in, the encoder is no longer the decoder transposed, as "
            f"SAELens' {kind} needs it; {stay}"
        )
    return None


def export(
    dictionary: Dictionary, folder: Path, *, provenance: Mapping[str, object], density: Float[Tensor, " d_sae"] | None
) -> None:
    """Write a dictionary as a SAELens folder, with notes on what differs or surprises there.

    `provenance` becomes SAELens' metadata: model_name, hook_name, hook_name_out, context_size, prepend_bos,
    dataset_path, and others. `density` is the firing rate of each latent. Raises ExportError if SAELens has no exact
    counterpart.
    """
    raw = _fold_if_possible(dictionary)
    config, act_fn = _config_to_load(raw.config, dictionary.config), ACT_FNS[raw.config.act_fn.kind]
    hook_name = str(provenance.get("hook_name", ""))
    folder.mkdir(parents=True, exist_ok=True)
    _save({**raw.geometry.state_dict(), **act_fn.weights(raw.sparsity)}, folder / WEIGHTS)
    if density is not None:
        _save({"sparsity": (density.float() + SMALLEST_DENSITY).log10()}, folder / SPARSITY)
    (folder / CONFIG).write_text(json.dumps(_fields(config, provenance), indent=1, sort_keys=True) + "\n")
    notes = [f"- {note}\n" for note in _notes(config, hook_name, has_heads=_has_heads(config, hook_name))]
    (folder / NOTES).write_text("".join(["In SAELens:\n", *notes]))


def describe_for_saelens(dictionary: Dictionary, provenance: Mapping[str, object]) -> dict[str, object]:
    """The fields of the `cfg.json` that `export` writes. Raises ExportError as that does."""
    return _fields(_config_to_load(_fold_if_possible(dictionary).config, dictionary.config), provenance)


def _fold_if_possible(dictionary: Dictionary) -> Dictionary:
    """A copy that computes what SAELens will. Raises ExportError if SAELens has no exact counterpart."""
    if reason := obstacle(dictionary.config):
        raise ExportError(reason)
    return _fold(dictionary)


def _fields(config: DictionaryConfig, provenance: Mapping[str, object]) -> dict[str, object]:
    """The fields of `cfg.json` for a dictionary of this config."""
    parts = (config.geometry.kind, AT_INFERENCE.get(config.act_fn.kind, config.act_fn.kind))
    has_heads = _has_heads(config, str(provenance.get("hook_name", "")))
    return {
        "architecture": next(name for name, its_parts in ARCHITECTURES.items() if its_parts == parts),
        "d_in": config.d_in,
        **({} if config.geometry.autoencodes else {"d_out": config.d_out}),
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": getattr(config.geometry, "apply_b_dec_to_input", False),
        "normalize_activations": PER_TOKEN.get(config.normalize_activations, "none"),
        "reshape_activations": "hook_z" if has_heads else "none",
        "metadata": {
            "sae_lens_version": f"{VERSION}.0.0",
            "sae_lens_training_version": None,
            **provenance,
            OWN_CONFIG: config.model_dump(mode="json"),
        },
        **ACT_FNS[config.act_fn.kind].fields(config),
    }


def _has_heads(config: DictionaryConfig, hook_name: str) -> bool:
    """True if SAELens meets attention heads apart, (n_heads, d_head), where lmsae has one flat vector."""
    return config.geometry.autoencodes and hook_name.endswith("hook_z")


def _notes(config: DictionaryConfig, hook_name: str, *, has_heads: bool) -> Iterator[str]:
    yield "SAE.load_from_disk(folder) opens this folder. It reads and writes raw activations."
    if config.normalize_activations in PER_TOKEN:
        yield "SAELens divides each token by its norm: a token of zeros comes out as NaN. In lmsae it comes out near 0."
    if has_heads:
        yield (
            "It takes attention heads apart, (..., n_heads, d_head), as TransformerLens has them. For flat rows, as "
            "lmsae stores them, call sae.turn_off_forward_pass_hook_z_reshaping() first."
        )
    if not hook_name.endswith("hook_normalized"):
        yield (
            "SAETransformerBridge.run_with_saes finds hook_name. But its run_with_hooks calls no hook of that name and "
            "says nothing (SAELens 6.54, TransformerLens 3.9), until enable_compatibility_mode(no_processing=True)."
        )


def _fold(dictionary: Dictionary) -> Dictionary:
    """A copy for raw activations, or for tokens that SAELens normalizes."""
    bare = _without_per_token(dictionary) if dictionary.config.normalize_activations in PER_TOKEN else dictionary
    return _fold_tied(bare) if dictionary.config.act_fn.needs_tied_encoder else bare.fold_normalizers()


def _config_to_load(folded: DictionaryConfig, original: DictionaryConfig) -> DictionaryConfig:
    """The config of the dictionary that `load` gives back."""
    changed: dict[str, object] = {}
    if original.normalize_activations in PER_TOKEN:
        changed["normalize_activations"] = original.normalize_activations
    if original.act_fn.kind == "jumprelu":
        # The exp of a stored logarithm would not be the same number.
        changed["act_fn"] = original.act_fn.model_copy(update={"jumprelu_threshold": "direct"})
    return folded.model_copy(update=changed)


def _without_per_token(dictionary: Dictionary) -> Dictionary:
    """A copy that reads tokens that are normalized already. A transcoder still scales its output."""
    config, bare = dictionary.config, deepcopy(dictionary)
    like = next(dictionary.parameters())
    bare.read = normalizer.build("none", config.widths.reads).to(like)
    if config.geometry.autoencodes:
        bare.write = normalizer.build("none", config.widths.writes).to(like)
    return bare


def _fold_tied(dictionary: Dictionary) -> Dictionary:
    """A copy for raw activations whose encoder is still its decoder transposed.

    The one factor for all of x is folded into b_dec and the codes, and not into the rows.
    """
    config, folded, affine = dictionary.config, deepcopy(dictionary), dictionary.read.affine()
    b_dec = folded.geometry.get_parameter("b_dec")
    b_dec.data = affine.restore_writers(b_dec.data)
    like = next(dictionary.parameters())
    folded.read = normalizer.build("none", config.widths.reads).to(like)
    folded.write = normalizer.build("none", config.widths.writes).to(like)
    folded.config = config.model_copy(update={"normalize_activations": "none"})
    return folded


def _save(weights: Mapping[str, Tensor], file: Path) -> None:
    save_tensors({name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}, file)
