"""Export: finished dictionaries in the formats of other tools, each into a new folder that appears when it is whole."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from lmsae.artifacts.artifact import RUN, Artifact
from lmsae.commands.converting import convert_artifact, write_converted
from lmsae.commands.subjects import Subject
from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ExportError, LmsaeError, NoSpaceError, Unmade
from lmsae.runtime.disk import explain_full_disk, require_space
from lmsae.runtime.drafts import draft_of_folder, require_empty
from lmsae.runtime.version import __version__
from lmsae.sparsity.config import JumpReLUConfig
from lmsae.stages.publishing import metadata_of

if TYPE_CHECKING:
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.interop.saebench import Evaluated

Say = Callable[[str], None]


def export_circuit_tracer(
    subjects: Sequence[Subject], folder: Path, *, scan: str | None, convert: bool, say: Say
) -> None:
    """Write one folder of circuit-tracer: a transcoder for each layer of a model, or a cross-layer transcoder.

    With `convert`, dictionaries of the topk family are written as jumprelu. Raises ExportError, and writes nothing, if
    the dictionaries do not make one such folder.
    """
    from lmsae.interop import circuit_tracer

    members = []
    for one in subjects:
        config = _converted(one.config) if convert and circuit_tracer.may_be_converted(one.config) else one.config
        members.append(
            circuit_tracer.Member(one.name, config, one.origin.model.name, one.origin.reads, one.origin.writes)
        )
    arrangement = circuit_tracer.arrange(members, subjects[0].origin.layers)
    by_name = {one.name: one for one in subjects}
    with _new_folder(subjects, folder) as draft:
        for layer, member in enumerate(arrangement.members):
            subject = by_name[member.name]
            dictionary = _load(subject, converts=member.config != subject.config, say=say)
            if arrangement.kind == "cross_layer_transcoder":
                circuit_tracer.write_clt(dictionary, draft)
            else:
                circuit_tracer.write_layer(dictionary, layer, draft, has_skip=arrangement.has_skip)
        circuit_tracer.write_config(arrangement, draft, scan or folder.resolve().name)
    say(f"wrote {folder} for circuit-tracer: {arrangement.kind}, {subjects[0].origin.layers} layers")


def export_saelens(subjects: Sequence[Subject], folder: Path, *, convert: bool, say: Say) -> None:
    """Write a SAELens folder of each dictionary, `folder/ROW`, with what its evaluation has measured.

    With `convert`, what SAELens has as jumprelu alone is written so. Raises Unmade if SAELens has no counterpart of
    some, and ExportError if of all; then nothing is written.
    """
    from lmsae.interop import saelens
    from lmsae.stages.publishing import write_saelens

    def write(subject: Subject, out: Path) -> None:
        out = out / subject.label
        if convert and saelens.obstacle(subject.config) and subject.config.act_fn.not_jumprelu_because is None:
            converted, paid = convert_artifact(subject.made, subject.artifacts)
            write_converted(subject.made, subject.artifacts, converted, paid, out)
            say(f"{subject.name} as jumprelu: {paid}")
        else:
            write_saelens(subject.made, subject.measured("eval"), subject.artifacts, out)

    _write_each(subjects, folder, write)
    say(f"wrote {folder} for SAELens, a folder a dictionary")


def export_saebench(subjects: Sequence[Subject], folder: Path, *, release: str, say: Say) -> None:
    """Write a core result of SAEBench of each dictionary, `folder/eval_results/core/RELEASE_ROW_eval_results.json`.

    Raises Unmade and ExportError as `export_saelens`.
    """
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.evaluation.scores import Score
    from lmsae.interop import saebench

    def write(subject: Subject, out: Path) -> None:
        evaluation = subject.measured("eval")
        score, dictionary = Score.load(evaluation.path), Dictionary.load(subject.made.path)
        described = _describe(subject, evaluation, dictionary)
        facts = _facts_of_evaluation(subject, evaluation, release)
        result = saebench.core_result(facts, score.metrics, score.latents, dictionary, described)
        file = out / "eval_results" / "core" / saebench.file_name(release, subject.label)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", "utf-8")

    _write_each(subjects, folder, write)
    say(f"wrote {folder / 'eval_results' / 'core'} for SAEBench")


def export_neuronpedia(
    subjects: Sequence[Subject],
    folder: Path,
    *,
    slug: str | None,
    model_id: str | None,
    release: str | None,
    title: str | None,
    creator: str,
    url: Sequence[str],
    say: Say,
) -> None:
    """Write a bundle for Neuronpedia of the features of each dictionary, `folder/v1/MODEL_ID/LAYER-SLUG`; of a clt, a
    source a layer. Raises Unmade and ExportError as `export_saelens`."""
    from lmsae.commands.neuronpedia_sources import Labels, sources_of, write

    release = release or folder.resolve().name
    labels = Labels(slug, model_id, release, title or release, creator, url)
    taken: dict[Path, str] = {}

    def write_one(subject: Subject, out: Path) -> None:
        sources = sources_of(subject, labels)
        for source in sources:
            if (other := taken.setdefault(source.folder, subject.name)) != subject.name:
                raise ExportError(f"{other} is the source {source.id} already. Give each a --slug in a run of its own.")
        write(subject, sources, out)

    _write_each(subjects, folder, write_one)
    say(f"wrote {folder} for Neuronpedia: {', '.join(sorted(source.name for source in taken))}")


def _describe(subject: Subject, evaluation: Artifact, dictionary: "Dictionary") -> JsonObject:
    """The config of a dictionary in SAELens' fields; as much of them as there is if SAELens has no counterpart."""
    from lmsae.interop import saelens

    metadata = metadata_of(subject.made, evaluation, subject.artifacts)
    config, trained = dictionary.config, subject.made.spec().config
    learned = {"training_tokens": trained["tokens"]} if "objective" in trained else {}
    try:
        return {**saelens.describe_for_saelens(dictionary, metadata), **learned}
    except ExportError:
        architecture = metadata.get("training_architecture", config.geometry.kind)
        return {
            "architecture": architecture,
            "d_in": config.d_in,
            "d_sae": config.d_sae,
            "metadata": {**metadata, saelens.OWN_CONFIG: config.model_dump(mode="json")},
            **learned,
        }


def _facts_of_evaluation(subject: Subject, evaluation: Artifact, release: str) -> "Evaluated":
    from lmsae.interop.saebench import Evaluated
    from lmsae.text.tokens import open_tokens

    spec, ended = evaluation.spec(), json.loads((evaluation.path / RUN).read_text())["finished"]
    tokens = subject.artifacts[spec.inputs["tokens"]].require_intact(read=())
    contexts, context_size = open_tokens(tokens.path).held_out.shape
    return Evaluated(
        release=release,
        row=subject.label,
        uuid=str(uuid5(NAMESPACE_URL, evaluation.reference)),
        ended=int(datetime.fromisoformat(ended).timestamp() * 1000),
        model=subject.origin.model.name,
        dtype=spec.config["models"][0]["dtype"],
        dataset=tokens.spec().config["dataset"]["name"],
        context_size=context_size,
        contexts=max(1, min(contexts, spec.config["tokens"] // context_size)),
        batch_contexts=spec.config["batch_contexts"],
        made_by=f"lmsae {__version__}",
    )


def _converted(config: DictionaryConfig) -> DictionaryConfig:
    return config.model_copy(update={"act_fn": JumpReLUConfig(jumprelu_threshold="direct")})


def _load(subject: Subject, *, converts: bool, say: Say) -> "Dictionary":
    """The dictionary, or the jumprelu that it is converted to, whose cost is told."""
    from lmsae.dictionary.dictionary import Dictionary

    if not converts:
        return Dictionary.load(subject.made.path)
    converted, paid = convert_artifact(subject.made, subject.artifacts)
    say(f"{subject.name} as jumprelu: {paid}")
    return converted


@contextmanager
def _new_folder(subjects: Sequence[Subject], folder: Path) -> Iterator[Path]:
    """A draft of the folder, on a disk that can hold the dictionaries' weights once more."""
    require_empty(folder)
    nbytes = sum(one.made.bytes() for one in subjects)
    require_space(folder, nbytes, "export fewer dictionaries", elsewhere="name a folder on another disk")
    with explain_full_disk(folder), draft_of_folder(folder) as draft:
        yield draft


def _write_each(subjects: Sequence[Subject], folder: Path, write: Callable[[Subject, Path], None]) -> None:
    """Write the files of each dictionary by `write`, which fills a folder that has nothing else in it.

    One that cannot be written costs no other its place. Raises Unmade if some cannot, when all others are written, and
    if none can the error of the first: then nothing is written.
    """
    failures: dict[str, LmsaeError] = {}
    with _new_folder(subjects, folder) as draft:
        for subject in subjects:
            with TemporaryDirectory(dir=draft) as part:
                try:
                    write(subject, Path(part))
                except NoSpaceError:
                    raise
                except LmsaeError as error:
                    failures[subject.name] = error
                else:
                    _move_files(Path(part), draft)
        if len(failures) == len(subjects):
            raise next(iter(failures.values()))
    if failures:
        said = "\n".join(f"  {name}: {error}" for name, error in failures.items())
        raise Unmade(f"wrote {folder}, but for {len(failures)} of {len(subjects)} dictionaries:\n{said}", {**failures})


def _move_files(part: Path, folder: Path) -> None:
    for file in [path for path in part.rglob("*") if path.is_file()]:
        target = folder / file.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
