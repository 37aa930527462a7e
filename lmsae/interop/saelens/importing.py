"""A SAELens folder as a dictionary, and the obstacles to that."""

import re
from pathlib import Path

from pydantic import BaseModel, Field, PositiveInt

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.dictionary.reading import Fields, open_safetensors, read_config
from lmsae.errors import FolderError
from lmsae.geometry.config import GEOMETRIES
from lmsae.interop.filling import fill_dictionary, make_config
from lmsae.interop.finished import Origin
from lmsae.interop.foreign_names import hook_point, model_name, texts
from lmsae.interop.saelens.names import (
    ACT_FNS,
    ARCHITECTURES,
    AT_INFERENCE,
    CONFIG,
    OWN_CONFIG,
    PER_TOKEN,
    SHAPES,
    VERSION,
    WEIGHTS,
)
from lmsae.sparsity.config import ACT_FNS as OUR_ACT_FNS


class _Metadata(Fields):
    sae_lens_version: str | None = None


class _Versioned(Fields):
    metadata: _Metadata | None = None

    def obstacle(self) -> str | None:
        """The reason why the layout cannot be read, or None if it can."""
        version = (self.metadata.sae_lens_version if self.metadata else None) or "0"
        number = re.match(r"\d{1,9}", version)
        if number is None:
            return (
                f"metadata.sae_lens_version is {version!r}; wanted: the version that wrote it, such as {VERSION}.0.0, "
                "which tells its layout. Save it again with a release of SAELens, or write the version by hand."
            )
        if int(number[0]) < VERSION:
            again = "open it with SAELens and save it again: SAE.load_from_disk(folder).save_model(folder)."
            return f"its layout is older than SAELens {VERSION}; {again}"
        return None


class _OwnMetadata(BaseModel):
    own: DictionaryConfig | None = Field(default=None, alias=OWN_CONFIG)
    model_name: object = None
    hook_name: object = None
    hook_name_out: object = None


class _Fields(Fields):
    architecture: str
    d_in: PositiveInt
    d_sae: PositiveInt
    d_out: PositiveInt | None = None
    normalize_activations: str | None = "none"
    apply_b_dec_to_input: bool = True
    selects_by_norm: bool = Field(default=False, alias="rescale_acts_by_decoder_norm")
    k: PositiveInt | None = None
    max_iterations: PositiveInt | None = None
    residual_threshold: float | None = None
    stop_on_duplicate_support: bool | None = None
    metadata: _OwnMetadata

    @property
    def origin(self) -> Origin:
        """The model and the hook points that its metadata names."""
        said = self.metadata
        read, written = (tuple(map(hook_point, texts([name]))) for name in (said.hook_name, said.hook_name_out))
        elsewhere = GEOMETRIES[ARCHITECTURES[self.architecture][0]].autoencodes is False
        models = tuple(map(model_name, texts([said.model_name])))
        return Origin(models=models, reads=read, writes=written if elsewhere else read)

    def obstacle(self) -> str | None:
        """The reason why lmsae has no exact counterpart of this cfg.json, or None if it has one."""
        architecture, normalization = self.architecture, self.normalize_activations
        if architecture not in ARCHITECTURES:
            return f"lmsae reads SAELens' {', '.join(ARCHITECTURES)}; this is {architecture!r}."
        if normalization not in ("none", *PER_TOKEN.values()):
            return (
                f"normalize_activations is {normalization!r}; lmsae reads folders whose scale is folded into the "
                "weights ('none'). SAELens' fold_activation_norm_scaling_factor does that."
            )
        if normalization in PER_TOKEN.values() and ARCHITECTURES[architecture][0] == "skip_transcoder":
            return (
                f"normalize_activations is {normalization!r}, but W_skip reads tokens as they are, which lmsae cannot."
            )
        if architecture == "matching_pursuit":
            wanted = {"residual_threshold": 0.0, "stop_on_duplicate_support": False, "apply_b_dec_to_input": True}
            other = {name: getattr(self, name) for name, value in wanted.items() if getattr(self, name) != value}
            if other:
                here = ", ".join(f"{name} {wanted[name]}" for name in other)
                return f"lmsae's matching pursuit takes all its steps: it has {here}, and this folder {other}."
        return None


def load(folder: Path | str) -> Dictionary:
    """The dictionary in a SAELens folder, on the CPU, ready for inference: it computes what SAELens computes.

    From a folder that lmsae wrote, codes and outputs are those of the written dictionary, bit for bit if no scale was
    folded in. Raises FolderError if a file is missing or damaged, or if lmsae has no exact counterpart.
    """
    file = Path(folder) / CONFIG
    fields = _read_fields(file)
    config = _config_of(file, fields)
    act_fn, found = ACT_FNS[config.act_fn.kind], open_safetensors(Path(folder) / WEIGHTS)
    names = _geometry_names(config)
    again = "SAELens' save_model and save_inference_model write what can be read here."
    sizes = {"d_in": config.d_in, "d_sae": config.d_sae, "d_out": config.d_out}
    wanted = {name: SHAPES[name] for name in (*names, *act_fn.names)}
    found.require(wanted, sizes, fields.architecture, again)
    weights = found.read_float32(wanted)
    geometry = {name: weights[name] for name in names}
    dictionary = fill_dictionary(file, config, geometry, act_fn.state(weights))
    if fields.selects_by_norm and "k" in act_fn.options(fields.model_dump()):
        dictionary.geometry.fold_norms()
    return dictionary


def describe(folder: Path) -> tuple[DictionaryConfig, Origin]:
    """The config of the dictionary in a SAELens folder, and its origin, by cfg.json alone. Raises FolderError."""
    fields = _read_fields(folder / CONFIG)
    return _config_of(folder / CONFIG, fields), fields.origin


def _read_fields(file: Path) -> _Fields:
    """The fields of a cfg.json. Raises FolderError if lmsae has no exact counterpart of what it describes."""
    if reason := read_config(file, _Versioned).obstacle():
        raise FolderError(f"{file.parent}: {reason}")
    fields = read_config(file, _Fields)
    if reason := fields.obstacle():
        raise FolderError(f"{file.parent}: {reason}")
    return fields


def _geometry_names(config: DictionaryConfig) -> list[str]:
    geometry = config.geometry
    names = ["W_dec", "b_dec"]
    names += [] if getattr(geometry, "tied_encoder", False) else ["W_enc"]
    names += [] if config.act_fn.brings_bias else ["b_enc"]
    return names + (["W_skip"] if geometry.kind == "skip_transcoder" else [])


def _config_of(file: Path, fields: _Fields) -> DictionaryConfig:
    geometry, act_fn = ARCHITECTURES[fields.architecture]
    described: dict[str, object] = {"kind": geometry}
    d_out = fields.d_out or fields.d_in
    if GEOMETRIES[geometry].autoencodes:
        d_out = fields.d_in
        described["apply_b_dec_to_input"] = fields.apply_b_dec_to_input
        described["tied_encoder"] = OUR_ACT_FNS[act_fn].needs_tied_encoder
    normalizations = {"none": "none"} | {theirs: ours for ours, theirs in PER_TOKEN.items()}
    config = make_config(
        file,
        {
            "widths": {"reads": [fields.d_in], "writes": [d_out]},
            "d_sae": fields.d_sae,
            "geometry": described,
            "act_fn": {"kind": act_fn, **ACT_FNS[act_fn].options(fields.model_dump())},
            "normalize_activations": normalizations[fields.normalize_activations or "none"],
        },
    )
    return _own_config(file, fields.metadata.own, config) if fields.metadata.own else config


def _own_config(file: Path, own: DictionaryConfig, found: DictionaryConfig) -> DictionaryConfig:
    """The config that lmsae wrote, which says what SAELens' fields cannot: that a jumprelu is a batchtopk.

    Raises FolderError if it contradicts those fields.
    """
    apart = {"act_fn": found.act_fn, "sparsity_include_decoder_norm": found.sparsity_include_decoder_norm}
    kind = own.act_fn.kind
    if own.model_copy(update=apart) != found or AT_INFERENCE.get(kind, kind) != found.act_fn.kind:
        raise FolderError(
            f"{file}: metadata.{OWN_CONFIG} describes another dictionary than the fields beside it. Write the folder "
            f"again, or delete metadata.{OWN_CONFIG} to read those fields alone."
        )
    return own
