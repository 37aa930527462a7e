"""Dictionaries spliced in: one alone as the evaluator splices it, several each behind the others."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.named import load
from lmsae.application.replacement import splice
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import MissingArtifact, NotEnoughTokens, SourceError
from tests.application.conftest import ROWS_OF_GEOMETRIES, TEXT, at_model
from tests.architectures import parts
from tests.miniature import HERE, THERE


def scores_as_in_its_evaluation(sae: LoadedDictionary) -> None:
    found = splice([sae])
    for name in ("ce_clean", "ce_spliced", "ce_difference", "kl_div"):
        assert getattr(found, name) == pytest.approx(sae.metrics[name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("row", ["top", "batch", "plain", "jump"])
@pytest.mark.usefixtures("here")
def test_one_dictionary_alone_scores_as_in_its_evaluation(row: str) -> None:
    scores_as_in_its_evaluation(load(row, device="cpu"))


@pytest.mark.slow
@pytest.mark.xdist_group("geometries")
@pytest.mark.parametrize("row", ROWS_OF_GEOMETRIES)
def test_a_dictionary_of_any_geometry_does_too(row: str, geometries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(geometries)
    scores_as_in_its_evaluation(load(row, device="cpu"))


def test_two_dictionaries_read_one_behind_the_other(here: Path) -> None:
    first, second = load("top", device="cpu"), load("jump", device="cpu")
    ids = first.tokenize(TEXT)
    counted = first.counted(ids)[..., None]

    def edit(sae: LoadedDictionary):
        return lambda a: torch.where(counted, sae.dictionary(a), a)

    spliced = first.model.logits_with(ids, {HERE: edit(first), THERE: edit(second)})[0, 1:-1].double().log_softmax(-1)
    clean = first.model.logits(ids)[0, 1:-1].double().log_softmax(-1)
    for both in ([first, second], [second, first]):
        found = splice(both, TEXT)
        assert found.tokens == len(TEXT) - 1
        assert found.ce_clean == pytest.approx(float(cross_entropy(clean, ids[0, 2:])), rel=1e-5)
        assert found.ce_spliced == pytest.approx(float(cross_entropy(spliced, ids[0, 2:])), rel=1e-5)
        divergence = float(kl_div(spliced, clean, reduction="batchmean", log_target=True))
        assert found.kl_div == pytest.approx(divergence, rel=1e-4, abs=1e-7)
        assert found.top1_agreement == pytest.approx(float((spliced.argmax(-1) == clean.argmax(-1)).double().mean()))
    assert "the same likeliest token" in str(found)


def test_a_transcoder_reads_what_a_dictionary_before_it_wrote(top: LoadedDictionary, folders: Path) -> None:
    transcoder = at_model(folders, "transcoder")
    ids, noted = top.tokenize(TEXT), []
    counted = top.counted(ids)[..., None]
    assert (transcoder.reads, transcoder.writes) == ((HERE,), (THERE,))

    def write(a):
        noted.append(torch.where(counted, top.dictionary(a), a))
        return noted[0]

    edits = {HERE: write, THERE: lambda a: torch.where(counted, transcoder.dictionary(noted[0]), a)}
    spliced = top.model.logits_with(ids, edits)[0, 1:-1]
    expected = float(cross_entropy(spliced, ids[0, 2:]))
    assert splice([transcoder, top], TEXT).ce_spliced == pytest.approx(expected, rel=1e-5)


def test_text_is_a_text_or_several_or_contexts_of_ids(top: LoadedDictionary) -> None:
    ids = torch.cat([top.tokenize(TEXT), top.tokenize(TEXT[::-1])])
    by_ids, by_text = splice([top], ids), splice([top], [TEXT, TEXT[::-1]])
    assert by_ids.tokens == by_text.tokens == 2 * (len(TEXT) - 1)
    assert by_ids.ce_spliced == pytest.approx(by_text.ce_spliced)
    long = splice([top], TEXT * 10)
    assert long.tokens == 10 * len(TEXT) - 2  # cut at the 64 tokens that the model reads at most: BOS counts nowhere


def test_what_cannot_be_spliced_is_refused(here: Path, top: LoadedDictionary, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"top and batch both write {HERE}"):
        splice([top, load("batch")], TEXT)
    with pytest.raises(SourceError, match="no dictionary"):
        splice([], TEXT)
    with pytest.raises(NotEnoughTokens, match="no token that counts"):
        splice([top], "a")
    Dictionary(parts("topk", width=16, d_sae=32)[0]).save(tmp_path)
    foreign = load(tmp_path, model="builtin:features?features=64&width=16", hook_point=THERE)
    with pytest.raises(SourceError, match=r"belongs to builtin:features.* and top to model"):
        splice([top, foreign], TEXT)
    with pytest.raises(MissingArtifact, match="give a text"):
        splice([foreign])
