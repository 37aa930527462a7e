"""Packing is tested as a law: what goes in comes out, in order, once, on the right side."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsae.errors import DamagedArtifact, MissingArtifact, NoSpaceError, NotEnoughTokens
from lmsae.text import packing, spool, tokens
from lmsae.text.documents import is_held_out, shuffle_rank
from lmsae.text.mixing import interleave
from lmsae.text.packing import SpooledText, TokenizeConfig, contexts_of, pack
from lmsae.text.spool import Spool
from lmsae.text.tokens import TokenSet, TokenWriter, dtype_of, open_tokens

SEPARATOR = 1
BOS = 2

names = st.lists(st.text(max_size=8), unique=True, max_size=12)


def spool_of(directory: Path, documents: dict[str, list[int]], seed: int = 0) -> Spool:
    made = Spool(directory, np.dtype(np.uint16), seed)
    for name, ids in documents.items():
        made.append(name, np.array([SEPARATOR, *ids]))
    return made


def numbered(count: int, length: int = 10) -> dict[str, list[int]]:
    return {f"document {n}": list(range(100 * n + 3, 100 * n + 3 + length)) for n in range(count)}


def packed(directory: Path, train: dict, held_out: dict, config: TokenizeConfig) -> TokenSet:
    directory.mkdir(exist_ok=True)
    writer = TokenWriter(directory, 60_000)
    with spool_of(directory, train, config.seed) as one, spool_of(directory, held_out, config.seed) as other:
        counts = pack([SpooledText("text", 1.0, one, other)], config, BOS, writer)
    writer.write_attributes(
        {
            "n_calibration_contexts": config.calibration_contexts,
            "bos_token_id": BOS,
            "special_token_ids": [SEPARATOR, BOS],
            "d_vocab": 60_000,
            "counts": counts,
        }
    )
    return open_tokens(directory)


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_drawing_in_the_docstring_is_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "shuffle_rank", lambda seed, name: int(name))
    config = TokenizeConfig(context_size=4)
    with spool_of(tmp_path, {"2": [5] * 5, "0": [3] * 5, "1": [4] * 2}) as read:
        ((ids, documents),) = contexts_of([read], np.zeros(5, int), config, BOS)
    assert ids.tolist() == [[BOS, 1, 3, 3], [BOS, 3, 3, 3], [BOS, 1, 4, 4], [BOS, 1, 5, 5], [BOS, 5, 5, 5]]
    assert documents.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]]


@settings(deadline=None, max_examples=60)
@given(
    documents=st.dictionaries(st.text(max_size=6), st.lists(st.integers(3, 60_000), max_size=30), max_size=12),
    seed=st.integers(0, 3),
    context_size=st.integers(2, 9),
    prepend_bos=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_every_document_comes_out_whole_in_order_and_once(
    tmp_path_factory: pytest.TempPathFactory,
    documents: dict[str, list[int]],
    seed: int,
    context_size: int,
    prepend_bos: bool,
    chunk: int,
) -> None:
    context_size += prepend_bos
    config = TokenizeConfig(context_size=context_size, prepend_bos=prepend_bos, seed=seed)
    with pytest.MonkeyPatch.context() as patch, spool_of(tmp_path_factory.getbasetemp(), documents, seed) as read:
        patch.setattr(packing, "CHUNK_TOKENS", chunk)
        order = interleave([1.0], [read.tokens // config.body], None)
        blocks = list(contexts_of([read], order, config, BOS))
        total = read.tokens
    ids = np.concatenate([ids for ids, _ in blocks]) if blocks else np.empty((0, context_size), int)
    index = np.concatenate([index for _, index in blocks]) if blocks else np.empty((0, context_size), int)
    if prepend_bos:
        assert (ids[:, 0] == BOS).all()
        assert (index[:, 0] == index[:, 1]).all()
        ids, index = ids[:, 1:], index[:, 1:]
    order = sorted(documents, key=lambda name: shuffle_rank(seed, name))
    stream = [token for name in order for token in (SEPARATOR, *documents[name])]
    owners = [number for number, name in enumerate(order) for _ in (SEPARATOR, *documents[name])]
    assert total - ids.size < config.body
    assert ids.ravel().tolist() == stream[: ids.size]
    assert index.ravel().tolist() == owners[: ids.size]


@given(names, st.text(max_size=8), st.integers(0, 3))
def test_the_order_of_documents_does_not_depend_on_which_others_there_are(
    present: list[str], added: str, seed: int
) -> None:
    def order(some: list[str]) -> list[str]:
        return sorted(some, key=lambda name: shuffle_rank(seed, name))

    assert [name for name in order([*present, added]) if name != added] == order([n for n in present if n != added])


def test_the_same_input_gives_the_same_bytes_and_another_seed_another_order(tmp_path: Path) -> None:
    train, held_out = numbered(40), numbered(5)
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        packed(tmp_path / name, train, held_out, TokenizeConfig(context_size=8, calibration_tokens=20, seed=seed))
    assert digests(tmp_path / "one") == digests(tmp_path / "again")
    one, other = open_tokens(tmp_path / "one").train[:], open_tokens(tmp_path / "other").train[:]
    assert one.shape == other.shape
    assert (one != other).any()


def test_the_order_in_which_documents_arrive_does_not_matter(tmp_path: Path) -> None:
    config = TokenizeConfig(context_size=8, calibration_tokens=20)
    backwards = dict(reversed(numbered(40).items()))
    packed(tmp_path / "forwards", numbered(40), numbered(5), config)
    packed(tmp_path / "backwards", backwards, numbered(5), config)
    assert digests(tmp_path / "forwards") == digests(tmp_path / "backwards")


def test_what_is_read_back_is_what_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK_TOKENS", 64)
    monkeypatch.setattr(tokens, "CHUNK_TOKENS", 64)
    config = TokenizeConfig(context_size=8, calibration_tokens=20, tokens=100, held_out_tokens=17)
    found = packed(tmp_path, numbered(40), numbered(5), config)
    # 20 tokens are 3 contexts of 8; 100 are 12; 17 are 2
    assert (len(found.train), len(found.held_out), found.calibration_contexts) == (15, 2, 3)
    assert found.counts == {
        "calibration_contexts": 3,
        "train_contexts": 15,
        "train_tokens": 96,
        "held_out_contexts": 2,
        "held_out_tokens": 16,
        "sources": [{"name": "text", "weight": 1.0, "documents": 45, "train_contexts": 15, "held_out_contexts": 2}],
    }
    assert (found.train.dtype, found.train_documents.dtype) == (np.uint16, np.int32)
    assert found.train_documents.shape == found.train.shape == (15, 8)
    order = sorted(numbered(40), key=lambda name: shuffle_rank(0, name))
    stream = [token for name in order for token in (SEPARATOR, *numbered(40)[name])]
    assert found.train[:][:, 1:].ravel().tolist() == stream[: 15 * 7]
    assert found.train[12:].tolist() == found.train[:][12:].tolist()
    assert len(list((tmp_path / "tokens.zarr/train/c").glob("*/*"))) == 2


def test_special_tokens_are_not_usable_and_all_others_are(tmp_path: Path) -> None:
    found = packed(tmp_path, numbered(40), numbered(5), TokenizeConfig(context_size=8, calibration_tokens=20))
    usable = found.usable("train")
    assert not usable[:, 0].any()
    assert (usable == (found.train[:] > BOS)).all()
    assert (found.usable("held_out", slice(1, 3)) == found.usable("held_out")[1:3]).all()


def test_positions_at_both_ends_of_contexts_may_be_left_out(tmp_path: Path) -> None:
    found = packed(tmp_path, numbered(40), numbered(5), TokenizeConfig(context_size=8, calibration_tokens=20))
    usable = found.usable("train", slice(2, 9), skip_first=3, skip_last=2)
    wanted = found.usable("train")[2:9]
    wanted[:, [0, 1, 2, 6, 7]] = False
    assert usable.any()
    assert (usable == wanted).all()


def test_leaving_out_all_positions_is_refused(tmp_path: Path) -> None:
    found = packed(tmp_path, numbered(40), numbered(5), TokenizeConfig(context_size=8, calibration_tokens=20))
    assert found.usable("train", skip_first=5, skip_last=2).any()
    with pytest.raises(NotEnoughTokens, match=r"first 5 and the last 3 positions .* contexts of 8 tokens"):
        found.usable("train", skip_first=5, skip_last=3)


@pytest.mark.parametrize(("d_vocab", "dtype"), [(4096, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_two_bytes_while_that_is_enough(d_vocab: int, dtype: str) -> None:
    assert dtype_of(d_vocab) == dtype


def test_too_little_training_text_says_how_much_there_is_and_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(
        NotEnoughTokens, match=r"3 documents and 33 tokens, 4 contexts of 8; the calibration.*takes 4"
    ) as caught:
        packed(tmp_path, numbered(3), numbered(5), TokenizeConfig(context_size=8, calibration_tokens=32))
    assert "tokenize.calibration_tokens" in str(caught.value)


def test_one_context_more_than_is_calibration_is_enough(tmp_path: Path) -> None:
    config = TokenizeConfig(context_size=8, calibration_tokens=24)
    assert packed(tmp_path, numbered(3), numbered(5), config).counts["train_tokens"] == 8


def test_too_little_held_out_text_says_how_much_there_is_and_what_to_raise(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughTokens, match=r"held-out text holds 0 documents and 0 tokens.*held_out_fraction"):
        packed(tmp_path, numbered(9), {}, TokenizeConfig(context_size=8, calibration_tokens=8))


def test_a_full_disk_is_noticed_before_anything_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoSpaceError, match=r"its disk has 100 bytes free.*lower tokenize\.tokens"):
        packed(tmp_path, numbered(40), numbered(5), TokenizeConfig(context_size=8, calibration_tokens=20))
    assert not (tmp_path / "tokens.zarr/train").exists()


def test_nothing_but_the_group_is_left_on_disk(tmp_path: Path) -> None:
    packed(tmp_path, numbered(40), numbered(5), TokenizeConfig(context_size=8, calibration_tokens=20))
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.zarr"]


def test_a_damaged_chunk_is_refused_when_it_is_read(tmp_path: Path) -> None:
    found = packed(tmp_path, numbered(40), numbered(5), TokenizeConfig(context_size=8, calibration_tokens=20))
    chunk = tmp_path / "tokens.zarr/train/c/0/0"
    spoilt = bytearray(chunk.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    chunk.write_bytes(spoilt)
    with pytest.raises(DamagedArtifact, match=r"train.*lmsae verify"):
        found.train[:2]


def test_a_chunk_of_nothing_but_zeros_is_on_disk_all_the_same(tmp_path: Path) -> None:
    found = packed(tmp_path, {"only": [3] * 100}, numbered(5), TokenizeConfig(context_size=8, calibration_tokens=20))
    assert not found.train_documents[:].any()
    assert (tmp_path / "tokens.zarr/train_documents/c/0/0").is_file()


def test_a_directory_without_tokens_is_a_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=r"tokens\.zarr"):
        open_tokens(tmp_path)


@pytest.mark.parametrize("limit", ["tokens", "held_out_tokens"])
def test_a_limit_below_one_context_is_a_fault_of_the_config(limit: str) -> None:
    with pytest.raises(ValidationError, match=f"{limit} 255 is less than one context of context_size 256"):
        TokenizeConfig.model_validate({limit: 255})


def test_a_context_needs_a_token_with_a_next_one_behind_bos() -> None:
    with pytest.raises(ValidationError, match="wanted at least 3"):
        TokenizeConfig(context_size=2)
    assert TokenizeConfig(context_size=2, prepend_bos=False).body == TokenizeConfig(context_size=3).body == 2


def test_held_out_names_do_not_correlate_with_the_shuffled_order() -> None:
    ranks = [shuffle_rank(0, name) for name in map(str, range(20_000)) if is_held_out(name, 0.1)]
    assert abs(np.mean(ranks) / 2**64 - 0.5) < 0.03
