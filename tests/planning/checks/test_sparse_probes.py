"""Probes that cannot be trained are refused when they are planned, and not after training."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.planning.checks.sparse_probes import probes_can_be_trained
from lmsae.stages.inputs import probed
from lmsae.stages.inputs.held_out import EvalSection
from tests.architectures import parts
from tests.miniature import Said, row_of, write_config, write_sweep
from tests.planning.checks.refusing import refusals

NAMES = ("5_hist_fig_ismale", "145_disease_class_digestive system diseases")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of another name whose folder lists data sets as sae-probes does."""
    import pyarrow as pa

    data = tmp_path / "lists_probes" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise AssertionError('a plan imports it not')\n")
    lines = [f"Binary Classification,cleaned_data/{name}.csv" for name in NAMES]
    text = "\n".join(["Data type,Dataset save name", *lines, "Continuous,cleaned_data/9_age.csv", ""])
    (data / "probing_datasets_MASTER.csv.zst").write_bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(probed, "PACKAGE", "lists_probes")


def why_not(name: str = "topk", **section: object) -> list[tuple[str | None, str]]:
    """The refusals of a row of a catalog entry with such columns `eval.*`."""
    return refusals(eval=EvalSection.model_validate(section), dictionary=parts(name, 16, 64)[0])


def test_a_missing_package_is_told_with_the_command_that_mends_it(
    fresh: Path, lmsae: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probed, "PACKAGE", "no_such_package_of_probes")
    write_config(fresh, eval={"probes": [NAMES[0]]})
    said = lmsae("plan")
    assert said.code == 2
    assert (
        "eval.probes: it needs the package sae-probes, which is not installed: pip install 'lmsae[probes]'" in said.err
    )


@pytest.mark.usefixtures("shipped")
def test_data_sets_that_there_are_not_are_refused_with_those_that_are_alike() -> None:
    assert why_not(probes=["5_hist_fig_ismale", "145_disease_class_digestive_system_diseases"]) == []
    assert why_not(probes=["all"]) == []
    assert why_not(probes=["hist_fig_ismale", "9_age"]) == [
        ("eval.probes", "hist_fig_ismale is no data set of sae-probes: did you mean 5_hist_fig_ismale?"),
        ("eval.probes", "9_age is no data set of sae-probes, which has 2 of them"),
    ]


@pytest.mark.usefixtures("shipped")
def test_more_latents_than_there_are_cannot_be_probed() -> None:
    ((column, message),) = why_not(probes=[NAMES[0]], probes_k=[1, 65])
    assert (column, message) == ("eval.probes_k", "it is 65, but there are only 64 latents: lower it")


@pytest.mark.usefixtures("shipped")
def test_a_row_of_whole_contexts_that_asks_for_probes_is_refused(fresh: Path, lmsae: Callable[..., Said]) -> None:
    write_sweep(fresh, [row_of("lorsa", **{"eval.probes": NAMES[0]}), row_of("topk", **{"eval.probes": NAMES[0]})])
    said = lmsae("plan")
    assert "row lorsa, column eval.probes: a lorsa reads whole contexts" in said.err
    assert "row topk" not in said.err


@pytest.mark.usefixtures("shipped")
def test_a_model_without_a_tokenizer_cannot_read_the_texts(fresh: Path, lmsae: Callable[..., Said]) -> None:
    write_config(fresh, eval={"probes": [NAMES[0]]})
    (fresh / "model" / "tokenizer.json").unlink()
    said = lmsae("plan")
    assert "eval.probes: its texts need a tokenizer: model model: " in said.err


def test_a_number_of_latents_without_probes_changes_nothing_and_names_stand_once() -> None:
    (refusal,) = probes_can_be_trained(EvalSection(probes_k=(3,)))
    assert (refusal.column, refusal.only_if_own) == ("eval.probes_k", True)
    with pytest.raises(ValueError, match="a is there more than once"):
        EvalSection(probes=("a", "b", "a"))
    with pytest.raises(ValueError, match="numbers of latents, each at least 1"):
        EvalSection(probes=("a",), probes_k=(4, 0))


def test_an_evaluation_without_probes_has_the_key_from_before_there_were_any() -> None:
    assert set(EvalSection().model_dump()) == {"tokens", "batch_contexts"}
    section = EvalSection(probes=("a",), probes_k=(3,))
    assert EvalSection.model_validate(section.model_dump(mode="json")) == section
