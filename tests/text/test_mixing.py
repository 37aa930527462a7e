"""A mixture is its sources, each as it is alone, context by context in the shares that were asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.errors import NotEnoughTokens, SourceError
from lmsae.text.documents import TokenDocument
from lmsae.text.encoding import Encoder, Vocabulary
from lmsae.text.mixing import find_first_exhausted, interleave, is_mixture, parts_of
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokenizing import Counts, TextSource, tokenize
from lmsae.text.tokens import TokenSet, open_tokens

CONFIG = TokenizeConfig(context_size=8, calibration_tokens=32, held_out_fraction=0.2, held_out_tokens=10**6)
VOCABULARY = Vocabulary(1000, bos=0, separator=0, special=(0,), ends=(0,))
# The hundreds of an id tell its source; the lengths of documents are far apart.
LENGTHS = {"short": 5, "long": 300}


def documents(source: str, count: int) -> list[TokenDocument]:
    first = 100 * (1 + list(LENGTHS).index(source))
    return [TokenDocument(str(n), [first + (n + i) % 100 for i in range(LENGTHS[source])]) for n in range(count)]


def tokenized(
    folder: Path, config: TokenizeConfig = CONFIG, *, stream: bool = False, **weights: float
) -> tuple[TokenSet, Counts]:
    folder.mkdir()
    sources = [
        TextSource(documents(name, 20_000 // LENGTHS[name]), name, weight, stop_when_full=stream)
        for name, weight in weights.items()
    ]
    counts = tokenize(sources, Encoder(None, VOCABULARY, config), folder)
    return open_tokens(folder), counts


def source_of_contexts(ids: np.ndarray) -> np.ndarray:
    """Which source each context comes from: 1 or 2, by its largest id."""
    return ids.max(axis=1) // 100


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    available=st.integers(1, 200),
    most=st.one_of(st.none(), st.integers(1, 300)),
)
def test_shares_are_kept_all_along_the_stream(weights: list[float], available: int, most: int | None) -> None:
    weights = [weight / sum(weights) for weight in weights]
    order = interleave(weights, [available] * len(weights), most)
    taken = np.cumsum(order[:, None] == np.arange(len(weights)), axis=0)
    wanted = np.arange(1, len(order) + 1)[:, None] * np.array(weights)
    tolerance = (1 + len(weights) * np.array(weights)) / 2
    assert (np.abs(taken - wanted) <= tolerance + 1e-9).all()
    assert taken[-1].max() <= available if len(order) else True


def test_a_single_source_is_all_there_is() -> None:
    assert interleave([1.0], [5], None).tolist() == [0] * 5
    assert interleave([1.0], [5], 3).tolist() == [0] * 3


def test_a_mixture_ends_where_its_first_source_does() -> None:
    order = interleave([0.75, 0.25], [9, 1000], None)
    assert np.bincount(order).tolist() == [9, 3]
    assert find_first_exhausted([0.75, 0.25], [9, 1000]) == 0


def test_weights_are_shares_of_the_tokens_of_the_right_source(tmp_path: Path) -> None:
    # The long source has 2 % of the documents, and the weight is three quarters of the tokens.
    found, counts = tokenized(tmp_path / "mixture", short=0.25, long=0.75)
    for split in ("train", "held_out"):
        sources = source_of_contexts(getattr(found, split)[:])
        shares = np.bincount(sources, minlength=3)[1:] / len(sources)
        assert abs(shares - [0.25, 0.75]).max() < 2 / len(sources)
        taken = np.cumsum(sources == 2)
        assert abs(taken - 0.75 * np.arange(1, len(sources) + 1)).max() <= 1.25
    assert [part["train_contexts"] for part in counts["sources"]] == np.bincount(
        source_of_contexts(found.train[:]), minlength=3
    )[1:].tolist()


def test_each_source_comes_as_it_would_alone(tmp_path: Path) -> None:
    mixture, _ = tokenized(tmp_path / "mixture", short=0.4, long=0.6)
    documents_before = 0
    for number, name in enumerate(LENGTHS, start=1):
        alone, counts = tokenized(tmp_path / name, CONFIG, stream=False, **{name: 1.0})
        for split in ("train", "held_out"):
            chosen = source_of_contexts(getattr(mixture, split)[:]) == number
            assert (getattr(mixture, split)[:][chosen] == getattr(alone, split)[: chosen.sum()]).all()
        chosen = source_of_contexts(mixture.train[:]) == number
        indices = mixture.train_documents[:][chosen]
        assert (indices - documents_before == alone.train_documents[: chosen.sum()]).all()
        documents_before += counts["documents"] - alone.held_out_documents[:].max() - 1


def test_a_limit_is_met_to_the_context_and_streams_stop_at_their_share(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tokens": 4000, "held_out_tokens": 400})
    found, counts = tokenized(tmp_path / "mixture", config, stream=True, short=0.5, long=0.5)
    assert (counts["train_tokens"], counts["held_out_tokens"]) == (4000, 400)
    assert [part["train_contexts"] for part in counts["sources"]] == [252, 252]
    assert counts["sources"][0]["documents"] < 20_000 // LENGTHS["short"]
    assert len(found.train) == 504


def test_a_source_that_cannot_supply_its_share_is_an_error_with_the_numbers(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tokens": 50_000})
    with pytest.raises(NotEnoughTokens, match=r"'long': its share .* 0\.9 of them, is 45,032 .*holds 1\d,\d{3}\."):
        tokenized(tmp_path / "short", config, short=0.1, long=0.9)


def test_what_the_error_advises_is_enough(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tokens": 50_000})
    with pytest.raises(NotEnoughTokens) as refused:
        tokenized(tmp_path / "refused", config, short=0.1, long=0.9)
    possible = int(str(refused.value).split("Lower tokenize.tokens to ")[1].split(" or ")[0].replace(",", ""))
    _, counts = tokenized(tmp_path / "made", CONFIG.model_copy(update={"tokens": possible}), short=0.1, long=0.9)
    assert counts["train_tokens"] == possible


def test_weights_of_any_sum_are_read_as_shares() -> None:
    parts = parts_of("3*owner/web?subset=en&documents=5   1*./chats.jsonl?messages_column=a%20b")
    assert [part.weight for part in parts] == [0.75, 0.25]
    assert [part.name for part in parts] == ["owner/web", "./chats.jsonl"]
    assert [part.fields for part in parts] == [{"subset": "en", "documents": "5"}, {"messages_column": "a b"}]


@pytest.mark.parametrize("name", ["owner/name", "text", "./0.5/x.txt", "data?split=x", "builtin:othello", "*"])
def test_an_ordinary_name_is_no_mixture(name: str) -> None:
    assert not is_mixture(name)


@pytest.mark.parametrize("name", ["0.5*a b", "0*a 1*b", "1*a -1*b", "0.5* 0.5*b", "1*a?split 1*b", "1e999*a 1*b"])
def test_a_mixture_that_is_not_well_written_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(SourceError, match=r"no part of a mixture; wanted WEIGHT\*NAME"):
        parts_of(name)
