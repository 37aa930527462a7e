"""The dictionary itself: it reads and writes raw activations, whatever units it was trained in."""

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmsae import geometry, sparsity
from lmsae.dictionary import normalizer
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.normalizer import Moments
from lmsae.dictionary.reading import open_safetensors, read_config
from lmsae.errors import FolderError, LmsaeError
from lmsae.geometry.codes import DenseCodes, EntryCodes
from lmsae.geometry.forward import Forward
from lmsae.geometry.geometry import EntrywiseGeometry
from lmsae.kernels.entries import Entries, spread
from lmsae.runtime.tensors import save_tensors
from lmsae.sparsity.capabilities import TakesAnyK, require
from lmsae.sparsity.selection import LearnsThreshold
from lmsae.sparsity.sparsity import EntrywiseSparsity

WEIGHTS, CONFIG = "dictionary.safetensors", "dictionary.json"


class Dictionary(nn.Module):
    """Geometry and activation function, and the normalizers that take raw activations into the units of training.

    Weights stand in training's units; `encode` and `decode` take and give raw activations.
    """

    def __init__(self, config: DictionaryConfig) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry.build(
            config.geometry,
            config.widths,
            config.d_sae,
            encoder_bias=not config.act_fn.brings_bias,
        )
        self.sparsity = sparsity.build(config.act_fn, self.geometry.latents, self.geometry.groups)
        self.read = normalizer.build(config.normalize_activations, config.widths.reads)
        self.write = normalizer.build_for_output(
            config.normalize_activations, config.widths.writes, is_read=config.geometry.autoencodes
        )

    def fit(self, reads: Sequence[Moments], writes: Sequence[Moments], x: Tensor, target: Tensor) -> None:
        """Fit the normalizers to the moments of the hook points read and written, and to raw calibration activations
        x (tokens, d_in) and target (tokens, d_out)."""
        self.read.fit(reads, x)
        if self.config.geometry.autoencodes:
            self.write.load_state_dict(self.read.state_dict())
        else:
            self.write.fit(writes, target)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latents"]:
        """Codes of raw activations. Where the geometry reads whole contexts, the last batch dimension is position."""
        return self._activate(self._to_selection(self.geometry.encode(self.read(x))))

    def encode_latents(
        self, x: Float[Tensor, "*batch d_in"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        """The codes of some latents, by their numbers: columns of `encode`.

        No other latent is computed where the code of each depends on that latent alone (relu, gated, jumprelu,
        batchtopk, batchlayertopk). topk and its kin compare all latents of a token, so there all are computed.
        """
        if not self.sparsity.each_alone:
            return self.encode(x)[..., latents]
        pre = self.geometry.encode_latents(self.read(x), latents)
        if not self.config.sparsity_include_decoder_norm:
            return self.sparsity.activate_latents(pre, latents)
        norms = self.geometry.norms()[latents]
        return self.sparsity.activate_latents(pre * norms, latents) / norms.clamp(min=1e-12)

    def decode_change(
        self,
        change: Float[Tensor, "*batch chosen"],
        latents: Int[Tensor, " chosen"],
        x: Float[Tensor, "*batch d_in"],
    ) -> Float[Tensor, "*batch d_out"]:
        """The change of the reconstruction, in raw activations, when the codes of some latents change by so much."""
        like = x if self.config.geometry.autoencodes else None
        return self.write.restore_change(self.geometry.write(change, latents, self.read(x)), like)

    def decode(
        self, codes: Float[Tensor, "*batch latents"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction, in raw activations."""
        like = x if self.config.geometry.autoencodes else None
        return self.write.restore(self.geometry.decode(codes, self.read(x)), like)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Raw activations to their reconstruction (of the target's hook points)."""
        return self.decode(self.encode(x), x)

    def normalize(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Raw input and target in training's units."""
        scaled = self.read(x)
        return scaled, scaled if target is x else self.write(target)

    def training_pass(self, x: Tensor, target: Tensor, usable: Tensor | None = None, k: int | None = None) -> Forward:
        """The forward pass that losses see, over activations that are already normalized.

        With `usable` (contexts, context_size), x (contexts, context_size, d_in) is encoded in whole contexts, and only
        usable tokens go on from there. `k` is another number of codes than the config's, for activation functions that
        take any (TakesAnyK).
        """
        return self._pass_everywhere(*self._encode(x, target, usable), k)

    @property
    def entrywise(self) -> bool:
        """True if there is an `entrywise_pass`."""
        return isinstance(self.geometry, EntrywiseGeometry) and isinstance(self.sparsity, EntrywiseSparsity)

    def entrywise_pass(self, x: Tensor, target: Tensor, usable: Tensor | None = None, k: int | None = None) -> Forward:
        """`training_pass` at those entries of (tokens, latents) alone that matter, for losses that are `entrywise`.

        All pre-activations are computed to tell which entries those are. Under autocast that is in half precision, and
        theirs are then computed again from the weights as they are. Where entries are too many it is the dense
        `training_pass`.
        """
        x, target, encoded = self._encode(x, target, usable)
        before_norms = encoded.detach()
        with torch.no_grad():
            pre = self._to_selection(before_norms)
        entries = self._choose_entries(pre, k)
        if entries is None:
            return self._pass_everywhere(x, target, encoded, k)
        return self._pass_at(entries, x, target, before_norms, pre, k)

    def _choose_entries(self, pre: Tensor, k: int | None) -> Entries | None:
        if k is not None:
            return require(self.sparsity, TakesAnyK).choose_entries(pre, k)
        assert isinstance(self.sparsity, EntrywiseSparsity)
        return self.sparsity.choose_entries(pre)

    def _encode(self, x: Tensor, target: Tensor, usable: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Input, target and what the geometry encodes, of usable tokens."""
        encoded = self.geometry.encode(x)
        return (x, target, encoded) if usable is None else (x[usable], target[usable], encoded[usable])

    def _pass_everywhere(self, x: Tensor, target: Tensor, encoded: Tensor, k: int | None) -> Forward:
        pre = self._to_selection(encoded)
        values = self._activate(pre, k)
        reconstruction = self.geometry.decode(values, x)
        codes = DenseCodes(values, pre, self.config.sparsity_include_decoder_norm, self.sparsity.signed)
        return Forward(x, target, pre, codes, reconstruction, k)

    def _pass_at(
        self, entries: Entries, x: Tensor, target: Tensor, encoded: Tensor, everywhere: Tensor, k: int | None
    ) -> Forward:
        """The pass at these entries, where pre is `encoded` before norms and `everywhere` with them."""
        assert isinstance(self.geometry, EntrywiseGeometry)
        assert isinstance(self.sparsity, EntrywiseSparsity)
        by_norm = self.config.sparsity_include_decoder_norm
        with torch.autocast(x.device.type, enabled=False):
            known = entries.gather(encoded) if encoded.dtype == x.dtype else None
            pre = self.geometry.encode_at(x, entries, known)
            if by_norm:
                norms = spread(self.geometry.norms(), entries)
                pre = pre * norms
                values = self.sparsity.activate_at(pre, entries.latents) / norms.clamp(min=1e-12)
            else:
                values = self.sparsity.activate_at(pre, entries.latents)
            reconstruction = self.geometry.decode_at(values, entries, x)
        codes = EntryCodes(values, pre, by_norm, self.sparsity.signed, entries)
        return Forward(x, target, everywhere, codes, reconstruction, k)

    def observe(self, forward: Forward) -> None:
        """Take a training step into the activation function's statistics, in the units that latents are selected in."""
        codes, values = forward.codes, forward.codes.values.detach()
        if self.config.sparsity_include_decoder_norm:
            values = values * codes.spread(self.geometry.norms())
        self.sparsity.observe(values, codes.latents)

    @torch.no_grad()
    def calibrate_threshold(self, tokens: int, parts: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Set the threshold, which training has only estimated, so that as many codes are active on raw activations x
        as training's selection keeps.

        `parts` have x (tokens, d_in), or whole contexts of it with the mask of usable tokens, a part of the `tokens`
        usable ones at a time.
        """
        assert isinstance(self.sparsity, LearnsThreshold), "no other threshold is an estimate"

        def pre_activations() -> Iterator[Tensor]:
            for x, usable in parts:
                pre = self._to_selection(self.geometry.encode(self.read(x)))
                yield pre if usable is None else pre[usable]

        self.sparsity.calibrate(tokens, pre_activations())

    def _to_selection(self, pre: Tensor) -> Tensor:
        """`pre` in the units that latents are selected in."""
        return pre * self.geometry.norms() if self.config.sparsity_include_decoder_norm else pre

    def _activate(self, pre: Tensor, k: int | None = None) -> Tensor:
        codes = self.sparsity(pre, self.geometry) if k is None else require(self.sparsity, TakesAnyK).select(pre, k)
        if self.config.sparsity_include_decoder_norm:
            return codes / self.geometry.norms().clamp(min=1e-12)
        return codes

    def fold_normalizers(self) -> "Dictionary":
        """A copy without normalizers, their maps taken into the weights: same codes and outputs.

        Where latents are selected by pre * norm, the norms go into the encoder first, and codes are multiplied by them.
        Raises ExportError where that cannot be exact.
        """
        config, folded = self.config, deepcopy(self)
        if config.sparsity_include_decoder_norm:
            folded.geometry.fold_norms()
        folded.geometry.fold(self.read.affine(), self.write.affine())
        like = next(self.parameters())
        folded.read = normalizer.build("none", config.widths.reads).to(like)
        folded.write = normalizer.build("none", config.widths.writes).to(like)
        folded.config = config.model_copy(
            update={
                "geometry": config.geometry.model_copy(update=dict(config.geometry.folded)),
                "normalize_activations": "none",
                "sparsity_include_decoder_norm": False,
            }
        )
        return folded

    def save(self, folder: Path) -> None:
        """Write `dictionary.json` (its config) and `dictionary.safetensors` (weights, statistics and normalizers)."""
        (folder / CONFIG).write_text(json.dumps(self.config.model_dump(mode="json"), indent=1) + "\n")
        save_tensors(
            {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS
        )

    @classmethod
    def load(cls, folder: Path | str) -> "Dictionary":
        """The dictionary saved in a folder, on the CPU, ready for inference.

        Raises FolderError, naming the file, if one is missing or damaged, or if config and weights do not agree.
        """
        file = Path(folder) / CONFIG
        config, found = read_config(file, DictionaryConfig), open_safetensors(Path(folder) / WEIGHTS)
        try:
            with torch.device("meta"):  # shapes without memory
                shapes = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
        except (LmsaeError, RuntimeError, TypeError, OverflowError) as error:
            said = str(error).split("\n")[0]
            raise FolderError(f"{file} describes no dictionary ({said}). Write it again: it is damaged.") from None
        found.require_names(shapes, "such a dictionary", "Write it again: it is damaged, or of another version.")
        for name, shape in shapes.items():
            found.require_shape(name, shape)
        dictionary = cls(config)
        dictionary.load_state_dict(found.read(shapes))
        return dictionary.eval().requires_grad_(False)
