"""The replacement model: a language model with several dictionaries spliced in at once, compared with the model itself.

Each dictionary reads what arrives at its hook point, behind the reconstructions of those before it. One that reads
several hook points, or reads behind what it writes, reads the activations of the model as it is. Tokens that do not
count keep their activations. One dictionary alone is the evaluator's splice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.tokens_of_text import require_room
from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.errors import MissingArtifact, NotEnoughTokens, SourceError
from lmsae.evaluation.hooked import HookPoint
from lmsae.evaluation.scoring import HeldOutText
from lmsae.lm.protocol import Edit, LanguageModel
from lmsae.metrics.splicing import NextToken
from lmsae.stages.evaluate import Config as EvalConfig
from lmsae.stages.inputs.held_out import read_held_out
from lmsae.stages.sites import inputs_from


@dataclass(frozen=True)
class SpliceScore:
    """The loss of a model with dictionaries spliced in, beside its own, over tokens that count and have a next one.

    Cross-entropy and KL(model || spliced) are in nats a token; `top1_agreement` is the share of these tokens behind
    which both think the same token likeliest.
    """

    tokens: int
    ce_clean: float
    ce_spliced: float
    kl_div: float
    top1_agreement: float

    @property
    def ce_difference(self) -> float:
        """The rise of the cross-entropy."""
        return self.ce_spliced - self.ce_clean

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens: CE {self.ce_clean:.4f} -> {self.ce_spliced:.4f}, KL {self.kl_div:.4f}, the same "
            f"likeliest token behind {100 * self.top1_agreement:.1f} %"
        )


class _Part(NamedTuple):
    """Some contexts of text, and the tokens that count by their ids and positions."""

    ids: Int[Tensor, "contexts position"]
    usable: Bool[Tensor, "contexts position"]


@torch.inference_mode()
def splice(
    saes: Sequence[LoadedDictionary], text: str | Sequence[str] | Tensor | None = None, *, batch_contexts: int = 8
) -> SpliceScore:
    """Splice dictionaries of one model in, all at once, and compare the model with itself.

    `text` is a text or several, or token ids (contexts, position). Without any it is the held-out text on which the
    first dictionary was evaluated, with the tokens that counted there. Longer texts than the model reads are cut.

    Raises SourceError if they are not of one model, or two write one hook point; NotEnoughTokens if no token of the
    text has a next one; MissingArtifact if there is no text.
    """
    model = _one_model(saes)
    held_out = _held_out(saes[0]) if text is None else None
    parts = _given(saes[0], text, batch_contexts) if held_out is None else held_out.batches(batch_contexts)
    clean, spliced, agreed = NextToken(), NextToken(), 0
    for ids, usable in parts:
        ids, usable = ids.to(model.device), usable.to(model.device)
        counted = usable if held_out is None else _within_limits(held_out, usable, model, ids)
        logits, found = model.logits(ids), model.logits_with(ids, _edits(saes, model, ids, counted))
        clean.update(logits, ids, counted)
        agreed += int(((logits.argmax(-1) == found.argmax(-1)) & counted)[:, :-1].sum())
        spliced.update(found, ids, counted, logits)
    if not clean.positions:
        raise NotEnoughTokens("the text has no token that counts and has a next one: give more text.")
    return SpliceScore(
        tokens=clean.positions,
        ce_clean=clean.mean_cross_entropy(),
        ce_spliced=spliced.mean_cross_entropy(),
        kl_div=spliced.mean_divergence(),
        top1_agreement=agreed / clean.positions,
    )


def _one_model(saes: Sequence[LoadedDictionary]) -> LanguageModel:
    """The model of all dictionaries. Raises SourceError if there is none."""
    if not saes:
        raise SourceError("no dictionary to splice in: give one or more.")
    model, source = saes[0].model, saes[0].home.models[0].source
    writers: dict[str, str] = {}
    for sae in saes:
        own = [one.source for one in sae.home.models]
        if own != [source]:
            told = ", ".join(f"{one.name} ({one.revision})" for one in own)
            raise SourceError(f"{sae.name} belongs to {told}, and {saes[0].name} to {source.name} ({source.revision}).")
        for hook_point in sae.writes:
            if hook_point in writers:
                both = f"{writers[hook_point]} and {sae.name}"
                raise SourceError(f"{both} both write {hook_point}: splice one at a time.")
            writers[hook_point] = sae.name
    return model


def _edits(saes: Sequence[LoadedDictionary], model: LanguageModel, ids: Tensor, counted: Tensor) -> dict[str, Edit]:
    """An edit at each hook point that is read or written: first what is written there, then it is noted for others."""
    order = list(model.hook_points())
    wanted = [name for sae in saes if not sae.reads_in_passing for name in (*sae.reads, *sae.writes)]
    found = model.read(ids, wanted) if wanted else {}
    noted: dict[str, Tensor] = {}
    writers: dict[str, Edit] = {}
    for sae in saes:
        if sae.reads_in_passing:
            writers[sae.writes[0]] = _write_in_passing(sae, noted, counted)
        else:
            writers |= _write_known(sae, found, counted)
    read_here = {sae.reads[0] for sae in saes if sae.reads_in_passing and sae.reads != sae.writes}

    def edit(name: str) -> Edit:
        def run(activations: Tensor) -> Tensor:
            after = writers[name](activations) if name in writers else activations
            if name in read_here:
                noted[name] = after
            return after

        return run

    return {name: edit(name) for name in sorted({*writers, *read_here}, key=order.index)}


def _write_in_passing(sae: LoadedDictionary, noted: dict[str, Tensor], counted: Tensor) -> Edit:
    def write(activations: Tensor) -> Tensor:
        x = activations if sae.reads == sae.writes else noted[sae.reads[0]]
        return torch.where(counted[..., None], sae.dictionary(x.float()).to(activations.dtype), activations)

    return write


def _write_known(sae: LoadedDictionary, found: dict[str, Tensor], counted: Tensor) -> dict[str, Edit]:
    """The reconstructions of activations that are known already."""
    x = torch.cat([found[name].float() for name in sae.reads], dim=-1)
    parts: Sequence[Float[Tensor, "contexts position _"]] = sae.dictionary(x).split(sae.config.widths.writes, dim=-1)

    def write(name: str, part: Tensor) -> Edit:
        own = found[name]
        return lambda activations: torch.where(counted[..., None], part.to(own.dtype), own)

    return {name: write(name, part) for name, part in zip(sae.writes, parts, strict=True)}


def _given(sae: LoadedDictionary, text: str | Sequence[str] | Tensor | None, batch_contexts: int) -> Iterator[_Part]:
    """The text that was given, in parts of equal length."""
    assert text is not None
    if isinstance(text, Tensor):
        whole = text if text.ndim == 2 else text[None]
        require_room(sae.model, whole.shape[1])
        rows = list(whole.split(batch_contexts))
    else:
        most = sae.model.max_context
        each = [sae.tokenize(one) for one in ([text] if isinstance(text, str) else text)]
        rows = [part for ids in each for part in (ids.split(most, dim=1) if most else [ids])]
    for ids in rows:
        yield _Part(ids, sae.counted(ids))


def _held_out(sae: LoadedDictionary) -> HeldOutText:
    """The text that a dictionary was evaluated on."""
    if "eval" not in sae.artifacts:
        raise MissingArtifact(f"{sae.name} has no evaluation whose text could be taken: give a text.")
    evaluation = Artifact(sae.artifacts["eval"])
    spec, artifacts = evaluation.spec(), Artifacts.of(sae.runtime).around(evaluation.path)
    config = EvalConfig.model_validate(spec.config)
    inputs = {name: artifacts[reference].require_intact() for name, reference in spec.inputs.items()}
    return read_held_out(
        inputs["tokens"], inputs_from("norm", inputs), config.places, config, config.tokens, "eval.tokens"
    )


def _within_limits(text: HeldOutText, usable: Tensor, model: LanguageModel, ids: Tensor) -> Tensor:
    names = [name for _, name in text.max_norms]
    found = model.read(ids, names) if names else {}
    return text.counted(usable, {HookPoint(0, name): x for name, x in found.items()})
