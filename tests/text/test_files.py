"""The files that a local name stands for: all that is read is in the text's identity, and what cannot be is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lmsae.errors import SourceError
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.documents import Document
from lmsae.text.pinning import documents, resolve


def lines(*texts: str) -> str:
    """The text of a file of JSON lines."""
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def written(folder: Path, files: dict[str, str | bytes]) -> Path:
    """A folder with files of such contents."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def resolved(path: Path, **columns: str) -> ResolvedDataset:
    found = resolve(DatasetConfig.model_validate({"name": str(path), **columns}))
    assert isinstance(found, ResolvedDataset)
    return found


def texts_of(path: Path, **columns: str) -> list[str]:
    return [one.text for one in documents(resolved(path, **columns)) if isinstance(one, Document)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.jsonl": lines("a"), "2.jsonl.gz": b""}, r": 2\.jsonl\.gz cannot be read.*Unpack 2\.json.*1\.jsonl\.$"),
        ({"dataset_infos.json": "{}", "train.jsonl.gz": b""}, r"train\.jsonl\.gz cannot be read"),
        ({"data-0.arrow": b"", "state.json": "{}", "dataset_info.json": "{}"}, r"data-0\.arrow cannot .*Write it as"),
        ({"README.md": "# Read me", "train.jsonl.gz": b""}, r"train\.jsonl\.gz cannot be read"),
        ({"a.jsonl": lines("a"), "a.jsonl.bak": lines("b")}, r"a\.jsonl\.bak cannot be read"),
        ({"a.txt": "a", "b.tsv": "text\nb\n"}, r"b\.tsv cannot be read"),
        (
            {"1.txt": "a", "2.txt": "b", "metadata.json": "{}"},
            r"text files \(1\.txt, 2\.txt\) .*such as metadata\.json\.$",
        ),
        (
            {"a.csv": "text\na\n", "b.parquet": b""},
            r"\.csv files \(a\.csv\) and \.parquet .*dataset\.name to .*a\.csv\.$",
        ),
        ({"README.md": "", "LICENSE.txt": "", "a.jsonl": lines("a")}, r"and text files \(LICENSE\.txt\)"),
    ],
)
def test_a_folder_of_several_kinds_or_with_data_that_is_not_read_is_refused_by_name(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        resolved(written(tmp_path, files))


def test_files_that_say_something_about_tables_are_no_mixture(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"a.jsonl": lines("a"), "README.md": "", "config.json": "{}", ".git/x.gz": b""}
    assert texts_of(written(tmp_path, files)) == ["a"]
    assert texts_of(written(tmp_path / "texts", {"README.md": "read me", "a.txt": "a"})) == ["read me", "a"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "train-1.jsonl").write_text(lines("c")),
        lambda folder: (folder / "README.md").write_text("---\nconfigs: []\n---\n"),
        lambda folder: (folder / ".huggingface.yaml").write_text("license: mit\n"),
        lambda folder: (folder / "train-0.jsonl").rename(folder / "train-2.jsonl"),
    ],
)
def test_whatever_decides_what_is_read_is_in_the_identity_and_a_change_is_noticed(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    folder = written(tmp_path, {"train-0.jsonl": lines("a"), "train-1.jsonl": lines("b")})
    planned = resolved(folder)
    assert [one.name for one in documents(planned)] == ["0", "1"]
    change(folder)
    assert resolved(folder).digest != planned.digest
    with pytest.raises(SourceError, match="not the one that was planned"):
        list(documents(planned))


def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, {"a.txt": "one", "b.txt": "two"})
    reading = documents(resolved(folder))
    assert next(reading).name == "a.txt"
    (folder / "b.txt").write_text("other")
    with pytest.raises(SourceError, match="changed while it was read"):
        list(reading)


@pytest.mark.parametrize("elsewhere", ["../outside.jsonl", ".hidden/x.jsonl"])
def test_a_card_that_names_files_elsewhere_is_refused_by_file(tmp_path: Path, elsewhere: str) -> None:
    card = f"---\nconfigs:\n- config_name: default\n  data_files: ['a.jsonl', '{elsewhere}']\n---\n"
    folder = written(tmp_path / "set", {"a.jsonl": lines("a"), "README.md": card, elsewhere: lines("b")})
    with pytest.raises(SourceError, match=rf"{Path(elsewhere).name} belongs to split 'train'.*go unnoticed"):
        resolved(folder)


def test_a_card_that_says_how_tables_are_read_is_refused(tmp_path: Path) -> None:
    card = "---\nconfigs:\n- config_name: default\n  data_files: a.csv\n  sep: ';'\n---\n"
    with pytest.raises(SourceError, match=r"README\.md sets sep"):
        resolved(written(tmp_path, {"a.csv": "text;n\na;1\n", "README.md": card}))


def test_a_card_says_which_table_belongs_to_which_split(tmp_path: Path) -> None:
    splits = "[{split: train, path: b.jsonl}, {split: other, path: a.jsonl}]"
    card = f"---\nconfigs:\n- config_name: one\n  data_files: {splits}\n---\n"
    folder = written(tmp_path, {"a.jsonl": lines("a"), "b.jsonl": lines("b"), "README.md": card})
    assert texts_of(folder, subset="one") == ["b"]
    assert texts_of(folder, split="other") == ["a"]


def test_a_column_that_nobody_asked_for_may_differ_in_type_between_tables(tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name, other in (("a", 1), ("b", "x"), ("c", [1.5])):
        parquet.write_table(pa.table({"text": [name], "other": [other]}), folder / f"{name}.parquet")
    assert texts_of(folder) == ["a", "b", "c"]
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": {"x": 1}}, {"text": "c"}]
    tables: dict[str, str | bytes] = {f"{n}.jsonl": json.dumps(row) + "\n" for n, row in enumerate(rows)}
    assert texts_of(written(tmp_path / "jsonl", tables)) == ["a", "b", "c"]


def test_text_that_looks_like_something_else_stays_text(tmp_path: Path) -> None:
    words = ["NA", "null", "12", "2020-01-01", "true"]
    for name, content in (("a.csv", "text\n" + "\n".join(words) + "\n"), ("a.jsonl", lines(*words))):
        folder = written(tmp_path / name.partition(".")[2], {name: content})
        assert texts_of(folder) == texts_of(folder / name) == words


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "body\na\n"),
        ("a.jsonl", '{"body": "a"}\n'),
        ("a.json", '[{"body": "a"}]'),
        ("set/train.jsonl", '{"body": "a"}\n'),
    ],
)
def test_a_wrong_column_is_known_when_it_is_planned(tmp_path: Path, name: str, content: str) -> None:
    written(tmp_path, {name: content})
    with pytest.raises(SourceError, match=r"no column 'text'; there is body"):
        resolved(tmp_path / name.partition("/")[0])
    assert texts_of(tmp_path / name.partition("/")[0], column="body") == ["a"]


@pytest.mark.parametrize("name", ["a.jsonl", "set/train.jsonl", "a.parquet", "set/train.parquet", "a.csv"])
def test_a_column_of_another_kind_is_known_when_it_is_planned(tmp_path: Path, name: str) -> None:
    path, rows = tmp_path / name, [{"text": "a", "ids": [1, 2], "number": 3}]
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("text,ids,number\na,1,3\n" if path.suffix == ".csv" else json.dumps(rows[0]) + "\n")
    named = tmp_path / name.partition("/")[0]
    with pytest.raises(
        SourceError, match=r"row (a\.\w+:)?0, column 'text': expected a list of token ids, found str 'a'"
    ):
        resolved(named, tokens_column="text")
    with pytest.raises(SourceError, match="expected a list of messages"):
        resolved(named, messages_column="text")
    if path.suffix != ".csv":
        with pytest.raises(SourceError, match=r"column 'number': expected text, found int 3"):
            resolved(named, column="number")
        assert resolved(named, tokens_column="ids").digest
    assert resolved(named).digest


@pytest.mark.parametrize("column", ["tokens_column", "messages_column"])
def test_text_files_have_no_column_of_another_kind(tmp_path: Path, column: str) -> None:
    with pytest.raises(SourceError, match=rf"such a text has no dataset\.{column}; leave that empty"):
        resolved(written(tmp_path, {"a.txt": "here"}), **{column: "ids"})


def test_a_wrong_split_is_known_when_it_is_planned(tmp_path: Path) -> None:
    folder = written(tmp_path, {"train.jsonl": lines("a"), "test.jsonl": lines("b")})
    with pytest.raises(SourceError, match=r"split 'tst': there is no such split; there is train, test; did you mean"):
        resolved(folder, split="tst")


def test_a_column_of_an_array_is_known_from_its_first_row_if_that_is_short(tmp_path: Path) -> None:
    (tmp_path / "long.json").write_text(json.dumps([{"x": "a" * 2**20, "text": "b"}]))
    assert texts_of(tmp_path / "long.json") == ["b"]
    (tmp_path / "empty.json").write_text("[]")
    assert resolved(tmp_path / "empty.json").digest


def test_a_byte_order_mark_of_a_text_file_is_no_text(tmp_path: Path) -> None:
    folder = written(tmp_path, {"a.txt": b"\xef\xbb\xbfhere", "b.md": "there"})
    assert texts_of(folder) == ["here", "there"]
