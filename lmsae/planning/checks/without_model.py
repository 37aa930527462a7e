"""Checks of a row that reads own activations: what needs a language model or text is refused."""

from collections.abc import Iterator

from lmsae.dictionary.config import DictionaryConfig
from lmsae.geometry.config import GEOMETRIES
from lmsae.initialization.config import InitConfig
from lmsae.planning.draft import Check, Refusal
from lmsae.planning.from_files import FILES, IDS, FromFiles
from lmsae.stages.activations import ActivationsSection
from lmsae.stages.inputs.held_out import EvalSection
from lmsae.training.objective import Objective

_NO_MODEL = "own activations (activations.source file) have no language model"


def losses_need_no_model(from_files: FromFiles, objective: Objective) -> Iterator[Refusal]:
    del from_files
    if objective.needs_model:
        kinds = " and ".join(loss.kind for loss in objective.losses if loss.needs_model)
        yield Refusal("sae.losses", f"{kinds} runs the model on from a reconstruction, and {_NO_MODEL}")


def start_needs_no_model(from_files: FromFiles, init: InitConfig) -> Iterator[Refusal]:
    del from_files
    if init.from_model:
        yield Refusal("init.from_model", f"{_NO_MODEL} to start from; leave it false")


def probes_need_no_model(from_files: FromFiles, eval: EvalSection) -> Iterator[Refusal]:
    del from_files
    if eval.probes:
        yield Refusal("eval.probes", f"their texts are run through the row's model, and {_NO_MODEL}; leave it empty")


def there_are_positions_to_attend_to_and_leave_out(
    from_files: FromFiles, activations: ActivationsSection, dictionary: DictionaryConfig
) -> Iterator[Refusal]:
    if from_files.in_files.has_positions:
        return
    vectors = "the files hold vectors, (vectors, width), that stand in no contexts"
    if GEOMETRIES[dictionary.geometry.kind].grain == "context":
        message = f"a {dictionary.geometry.kind} attends to the positions of a context, and {vectors}"
        yield Refusal("sae.architecture", f"{message}; store them as (contexts, positions, width)")
    for column in ("skip_first_positions", "skip_last_positions"):
        if getattr(activations, column):
            yield Refusal(f"activations.{column}", f"leaves out positions of contexts, and {vectors}; leave it at 0")


def own_columns_mean_something(from_files: FromFiles, written_columns: frozenset[str]) -> Iterator[Refusal]:
    if "tokenize.tokenizer" in written_columns and from_files.in_files.token_ids is None:
        message = f"gives the texts of token ids, and there are none: name their file in {IDS}, or leave the cell empty"
        yield Refusal("tokenize.tokenizer", message)
    idle = sorted(one for one in written_columns if one.startswith(("model.", "dataset.")))
    for column in idle:
        yield Refusal(column, f"changes nothing in this row: {_NO_MODEL} and no text. Leave the cell empty")


def files_are_read(activations: ActivationsSection) -> Iterator[Refusal]:
    for column, given in ((FILES, activations.files), (IDS, activations.token_ids)):
        if given and activations.source != "file":
            message = f"are read only if activations.source is file, and it is {activations.source}"
            yield Refusal(column, message, only_if_own=True)


CHECKS: tuple[Check, ...] = (
    losses_need_no_model,
    start_needs_no_model,
    probes_need_no_model,
    there_are_positions_to_attend_to_and_leave_out,
    own_columns_mean_something,
    files_are_read,
)
