"""A loaded dictionary: one object of every geometry, with its model, metrics and features, each read when asked for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsae.application.home import Given, Home, home_of_origin, home_of_spec, require_fit
from lmsae.artifacts.artifact import SPEC, Artifact, Artifacts
from lmsae.errors import MissingArtifact, ShapeError, SourceError
from lmsae.interop.finished import FILES, Finished
from lmsae.lm import read_config
from lmsae.lm.hook_points import hook_points
from lmsae.runtime.runtime import Runtime
from lmsae.stages import DICTIONARIES

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from lmsae.application.attribution import Attribution
    from lmsae.application.sparse_codes import SparseCodes
    from lmsae.application.steering import Generation
    from lmsae.dictionary.config import DictionaryConfig
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interpretation.opening import Features
    from lmsae.interpretation.texts import TokenTexts
    from lmsae.lm.protocol import LanguageModel
    from lmsae.text.encoding import Vocabulary


@dataclass(frozen=True)
class LoadedDictionary:
    """A finished dictionary, trained here or elsewhere: `lmsae.load` and `lmsae.run` give it.

    `artifacts` has the folder of each of its row's artifacts by stage, none of a dictionary from elsewhere, and
    `results` is the folder where its row is published. Codes are in training's units, activations are raw.
    """

    name: str
    artifacts: Mapping[str, Path]
    results: Path = Path("results")
    finished: Finished | None = None
    given: Given = field(default_factory=Given)
    runtime: Runtime = field(default_factory=Runtime)

    @cached_property
    def dictionary(self) -> "Dictionary":
        """The dictionary itself, on the device, ready for inference."""
        import torch

        from lmsae.dictionary.dictionary import Dictionary

        with torch.inference_mode(False):  # whoever asks first; attribution wants gradients through it later
            found = Dictionary.load(self._folder) if self.finished is None else _open_finished(self.finished)
            return found.to(self.runtime.torch_device())

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics that evaluation measured on held-out text. Raises MissingArtifact if there is none."""
        return json.loads((self._artifact("eval") / "metrics.json").read_text())

    @cached_property
    def features(self) -> "Features":
        """The meaning of each latent. Raises MissingArtifact if its row wants none (`features.tokens` is 0)."""
        from lmsae.interpretation.opening import open_features

        return open_features(self._artifact("features"), self.results)

    @property
    def config(self) -> "DictionaryConfig":
        """The geometry, the activation function and the sizes."""
        return self.dictionary.config

    @property
    def latents(self) -> int:
        """The number of latents; of a cross-layer transcoder, in all layers."""
        return self.dictionary.geometry.latents

    @cached_property
    def home(self) -> Home:
        """The models and hook points that it belongs to, as far as anybody has told."""
        return self.given.over(home_of_origin(self.finished.origin) if self.finished else self._own_home())

    @property
    def reads(self) -> tuple[str, ...]:
        """The hook points that it reads. Raises SourceError if nobody has told."""
        return tuple(place.hook_point for place in self._known_home.reads)

    @property
    def writes(self) -> tuple[str, ...]:
        """The hook points that it writes."""
        return tuple(place.hook_point for place in self._known_home.writes)

    @cached_property
    def reads_in_passing(self) -> bool:
        """True if a pass of its model comes by the one hook point that it reads before the one that it writes."""
        order, home = list(hook_points(read_config(self._known_home.models[0].source))), self.home
        places = [order.index(place.hook_point) for place in (*home.reads, *home.writes)]
        return len(home.reads) == len(home.writes) == 1 and places[0] <= places[1]

    @cached_property
    def models(self) -> "list[LanguageModel]":
        """The language models that it belongs to; a crosscoder may have several."""
        import torch

        with torch.inference_mode(False):
            return [model.load(self.runtime) for model in self._known_home.models]

    @property
    def model(self) -> "LanguageModel":
        """The language model that it belongs to. Raises SourceError if there are several."""
        if len(self._known_home.models) > 1:
            raise SourceError(
                f"{self.name} reads {len(self.home.models)} models at once. It encodes text of them all, but a "
                "model is steered, spliced and attributed by dictionaries of that model alone."
            )
        return self.models[0]

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of its text."""
        from lmsae.lm import load_tokenizer

        return load_tokenizer(self._known_home.tokenizer_model)

    @cached_property
    def vocabulary(self) -> "Vocabulary":
        """The special tokens; none of a model without a tokenizer, which reads ids."""
        from lmsae.lm.resolving import NoTokenizer
        from lmsae.text.encoding import Vocabulary

        try:
            return Vocabulary.from_tokenizer(self.tokenizer)
        except NoTokenizer:
            return Vocabulary(self.models[0].d_vocab)

    @cached_property
    def texts(self) -> "TokenTexts":
        """The texts of tokens, or numbers of a model without a tokenizer."""
        from lmsae.stages.inputs.token_texts import texts_of

        return texts_of(self._known_home.tokenizer_model)

    def tokenize(self, text: "str | Sequence[int] | Tensor") -> "Int[Tensor, '1 position']":
        """The token ids of a text, behind BOS if the dictionary was trained so. Ids stay as they are."""
        from lmsae.application.tokens_of_text import tokenize

        return tokenize(self, text)

    def counted(self, ids: "Int[Tensor, '*batch']") -> "Bool[Tensor, '*batch']":
        """The tokens that count: all but special ones, if training left those out."""
        from lmsae.application.tokens_of_text import mask_counted

        return mask_counted(self, ids)

    def read(self, text: "str | Sequence[int] | Tensor") -> "Float[Tensor, '1 position d_in']":
        """The raw activations of a text that the dictionary reads, hook points side by side."""
        import torch

        from lmsae.application.tokens_of_text import require_room

        ids, places = self.tokenize(text), self._known_home.reads
        found = {}
        for number, model in enumerate(self.models):
            require_room(model, ids.shape[1])
            names = [place.hook_point for place in places if place.model == number]
            found |= {(number, name): x for name, x in (model.read(ids, names) if names else {}).items()}
        return torch.cat([found[place.model, place.hook_point].float() for place in places], dim=-1)

    def encode(
        self, x: "Float[Tensor, '*batch d_in']", latents: "Sequence[int] | None" = None
    ) -> "Float[Tensor, '*batch _']":
        """The codes of raw activations, of all latents or of some.

        Of some, no others are computed where the code of each depends on that latent alone; topk, abstopk, groupmax and
        matching_pursuit compare all latents of a token.
        """
        x = self._to_device(x)
        if latents is None:
            return self.dictionary.encode(x)
        return self.dictionary.encode_latents(x, self.require_latents(latents))

    def encode_sparse(self, x: "Float[Tensor, '*batch d_in']") -> "SparseCodes":
        """The codes that are not 0, token by token. Memory holds all latents of a few tokens at a time."""
        from lmsae.application.sparse_codes import encode_sparse

        return encode_sparse(self.dictionary, self._to_device(x))

    def decode(
        self, codes: "Float[Tensor, '*batch latents']", x: "Float[Tensor, '*batch d_in'] | None" = None
    ) -> "Float[Tensor, '*batch d_out']":
        """The reconstruction of codes, in raw activations.

        `x` are the raw activations that they are of. Most dictionaries do without; ShapeError names those that do not.
        """
        codes = self._to_device(codes)
        if x is None:
            if reason := self._needs_input():
                raise ShapeError(f"{self.name} decodes with the activations that it has read: {reason}. Give x, too.")
            x = codes.new_zeros(*codes.shape[:-1], self.config.d_in)
        return self.dictionary.decode(codes, self._to_device(x))

    def generate(self, prompt: "str | Sequence[int] | Tensor", **how: Any) -> "Generation":
        """A continuation by the model, with latents steered: `lmsae.application.steering.generate`."""
        from lmsae.application.steering import generate

        return generate(self, prompt, **how)

    def attribute(self, text: "str | Sequence[int] | Tensor", **how: Any) -> "Attribution":
        """The share of each latent in a logit: `lmsae.application.attribution.attribute`."""
        from lmsae.application.attribution import attribute

        return attribute(self, text, **how)

    def require_latents(self, numbers: Sequence[int]) -> "Int[Tensor, ' chosen']":
        """Numbers of latents as a tensor. Raises ShapeError for one that there is not."""
        import torch

        if odd := [number for number in numbers if not 0 <= number < self.latents]:
            raise ShapeError(f"there is no latent {odd[0]}: {self.name} has {self.latents:,}, counted from 0.")
        return torch.tensor(list(numbers), dtype=torch.long, device=self.device)

    @property
    def device(self) -> str:
        """The device of dictionary and model."""
        return self.runtime.torch_device()

    def __repr__(self) -> str:
        config = self.config
        where = " ".join(place.hook_point for place in self.home.reads) or "unknown hook points"
        return f"<{config.geometry.kind} {self.name}: {self.latents:,} latents, {config.act_fn.kind}, {where}>"

    @property
    def _folder(self) -> Path:
        return next(self.artifacts[stage] for stage in DICTIONARIES if stage in self.artifacts)

    def _artifact(self, stage: str) -> Path:
        """The folder of a finished artifact of a stage."""
        if stage not in self.artifacts or not Artifact(self.artifacts[stage]).is_finished:
            mend = f"`lmsae eval --dictionary {self.name}` measures it" if stage == "eval" else "features.tokens is 0"
            raise MissingArtifact(f"{self.name} has no finished {stage} ({mend}).")
        return self.artifacts[stage]

    def _own_home(self) -> Home:
        """The home that its evaluation tells of or, without one, its training."""
        beside = Artifacts.of(self.runtime).around(self._folder)
        folders = [self.artifacts[stage] for stage in ("eval", *DICTIONARIES) if stage in self.artifacts]
        homes = (home_of_spec(Artifact(one).spec(), beside) for one in folders if (one / SPEC).is_file())
        return next((home for home in homes if home is not None), Home())

    @cached_property
    def _known_home(self) -> Home:
        """The home, if it is known and fits.

        Raises SourceError if no model is known, or there is none, or no hook point; HookPointError if the model lacks
        one, and ShapeError if that has another width.
        """
        home, widths = self.home, self.config.widths
        if not (home.models and home.reads and home.writes):
            unknown = "model" if not home.models else "hook point"
            raise SourceError(
                f"nobody has told which {unknown} {self.name} belongs to: lmsae.load({self.name!r}, model=..., "
                "hook_point=...), or hook_point_in and hook_point_out."
            )
        require_fit(self.name, home.models, home.reads, widths.reads)
        require_fit(self.name, home.models, home.writes, widths.writes)
        return home

    def _needs_input(self) -> str | None:
        """The reason that decoding needs what was read; None if it does not."""
        geometry, kind = self.config.geometry, self.config.normalize_activations
        if not geometry.writes_directions or getattr(geometry, "passes_x_on", False):
            return f"a {geometry.kind} writes a map of them"
        if geometry.autoencodes and kind in ("token", "layer_norm"):
            return f"normalize_activations is {kind}, which scales each token by its own size"
        return None

    def _to_device(self, values: "Tensor") -> "Tensor":
        return values.to(self.device, next(self.dictionary.parameters()).dtype)


def _open_finished(finished: Finished) -> "Dictionary":
    """The dictionary of a name that is no artifact."""
    from lmsae.interop.loading import load
    from lmsae.interop.located import fetch
    from lmsae.interop.saelens.released import load_release

    content = finished.content
    if content.release is not None:
        return load_release(content.release)
    if content.repository is not None:
        return load(fetch(content.repository, FILES[content.format]), content.format)
    assert finished.folder is not None, "it is in a folder, or on the hub"
    return load(finished.folder, content.format)
