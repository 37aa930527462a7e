import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from lmsae.config import canonical_json
from lmsae.errors import SourceError
from lmsae.text.dataset import DatasetConfig, ResolvedDataset, ResolvedMixture
from lmsae.text.documents import AnyDocument, ChatDocument, Document, TokenDocument, digest_of
from lmsae.text.hub_dataset import HubDataset
from lmsae.text.kind import DigestLookup
from lmsae.text.local import LocalText
from lmsae.text.othello import OthelloGames
from lmsae.text.pinning import KINDS, compute_now, documents, holds_ids, kind_of, resolve
from lmsae.text.stdlib import StandardLibrary, stdlib_documents

ROWS = [{"text": "first\nline", "n": 1, "ids": [3, 4]}, {"text": "sécond", "n": 2, "ids": [5]}]
LONG = "x" * 200_000


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_table(path: Path) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        path.write_text('n,text\n1,"first\nline"\n2,sécond\n', encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        write_jsonl(path, ROWS)
    return path


def resolved(name: Path | str, look_up: DigestLookup = compute_now, **columns: object) -> ResolvedDataset:
    found = resolve(DatasetConfig.model_validate({"name": str(name), **columns}), look_up)
    assert isinstance(found, ResolvedDataset)
    return found


def mixed(name: str, **columns: object) -> ResolvedMixture:
    found = resolve(DatasetConfig.model_validate({"name": name, **columns}))
    assert isinstance(found, ResolvedMixture)
    return found


def read(path: Path | str, **columns: Any) -> list[AnyDocument]:
    return list(documents(resolved(path, **columns)))


@pytest.fixture
def dataset_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like a hub dataset: two splits, and a card that says nothing."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_jsonl(tmp_path / "set/data/train-00000.jsonl", [{"text": f"row {n}", "ids": [n]} for n in range(5)])
    write_jsonl(tmp_path / "set/data/test-00000.jsonl", [{"text": "tested", "ids": [9]}])
    (tmp_path / "set/README.md").write_text("# A dataset\n")
    return tmp_path / "set"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_each_row_of_a_table_is_a_document_named_by_file_and_row(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"table{suffix}")
    assert read(path) == [Document(f"table{suffix}:0", "first\nline"), Document(f"table{suffix}:1", "sécond")]


def test_a_json_file_may_hold_json_lines(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "lines.json", ROWS)
    assert [document.name for document in read(path)] == ["lines.json:0", "lines.json:1"]


def test_a_json_file_may_begin_with_white_space(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.json")
    path.write_text("\n " + path.read_text())
    assert len(read(path)) == len(ROWS)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"table{suffix}")
    plain = read(path, column="text")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path, column="text") == plain
    if suffix == ".csv":
        path.write_text("\ufeff" + "text\nfirst\n", encoding="utf-8")
        assert read(path) == [Document("table.csv:0", "first")]


def test_a_text_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("as planned")
    planned = resolved(tmp_path)
    assert len(list(documents(planned))) == 1
    (tmp_path / "a.txt").write_text("as it is!!")
    with pytest.raises(SourceError, match=r"not the one that was planned.*lmsae plan"):
        list(documents(planned))


def test_another_pythons_library_is_not_the_built_in_text_that_was_planned() -> None:
    with pytest.raises(SourceError, match="not the one that was planned"):
        list(documents(ResolvedDataset(name="builtin:python-stdlib", digest="0" * 64)))


def test_a_csv_field_may_be_a_long_document(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"text\n{LONG}\n")
    assert read(path) == [Document("long.csv:0", LONG)]


def test_a_folder_of_text_files_holds_a_document_a_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, text in {"b.txt": "bee", "a/z.md": "zed", ".git/c.txt": "hidden", "d.bin": "binary"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read(tmp_path) == [Document("a/z.md", "zed"), Document("b.txt", "bee")]
    assert read(tmp_path / "b.txt") == [Document("b.txt", "bee")]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_token_ids_is_read_instead_of_text(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"table{suffix}")
    assert read(path, tokens_column="ids") == [
        TokenDocument(f"table{suffix}:0", [3, 4]),
        TokenDocument(f"table{suffix}:1", [5]),
    ]


def test_no_more_documents_are_read_than_were_asked_for(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "table.jsonl", ROWS)
    path.write_text(path.read_text() + "not json\n")
    assert [document.name for document in read(path, documents=2)] == ["table.jsonl:0", "table.jsonl:1"]


def test_blank_documents_are_passed_over_and_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": " \n"}, {"text": None}, {"text": "here"}])
    assert read(path) == [Document("t.jsonl:2", "here")]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_a_missing_column_is_named_with_those_there_are_and_the_nearest(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"table{suffix}")
    with pytest.raises(SourceError, match=r"no column 'texts'; there are .*text.*did you mean text\?"):
        read(path, column="texts")


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"text": 3}], {}, r"row t\.jsonl:0.*expected text, found int 3"),
        ([{"text": ["a"] * 90}], {}, r"expected text, found list \['a', .*\.\.\..*tokens_column"),
        ([{"ids": "abc"}], {"tokens_column": "ids"}, r"expected a list of token ids, found str 'abc'"),
        ([{"ids": [1, -1]}], {"tokens_column": "ids"}, r"expected a list of token ids"),
        ([{"ids": [1, 2.5]}], {"tokens_column": "ids"}, r"expected a list of token ids"),
        ([{"text": "a\ud800"}], {}, r"row t\.jsonl:0.*half a surrogate pair at character 1"),
        ([["text"]], {}, r"not an object with named columns but list"),
        ([{"text": ""}], {}, r"no text in it \(column 'text'"),
        ([], {}, r"no text in it"),
    ],
)
def test_rows_that_are_not_text_are_refused(tmp_path: Path, rows: list, columns: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(write_jsonl(tmp_path / "t.jsonl", rows), **columns)


def test_a_line_that_is_not_json_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "good"}\n\n{"text": bad}\n')
    with pytest.raises(SourceError, match=r"t\.jsonl, line 3: not JSON"):
        read(path)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_json_that_nests_too_deeply_is_refused_by_its_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(SourceError, match=rf"{name}.*it nests too deeply"):
        read(path)


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".csv", ".txt"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"text\n\xff\xfe\x00broken")
    with pytest.raises(SourceError, match=rf"broken\{suffix}"):
        read(path)


def test_a_missing_file_is_named_with_the_nearest_that_is_there(tmp_path: Path) -> None:
    write_table(tmp_path / "corpus.jsonl")
    with pytest.raises(SourceError, match=r"no such file or folder; did you mean .*corpus\.jsonl\?"):
        resolved(str(tmp_path / "corpsu.jsonl"))


def test_a_folder_without_readable_files_says_what_is_readable(tmp_path: Path) -> None:
    (tmp_path / "a.docx").touch()
    with pytest.raises(SourceError, match=r"readable are \.csv, \.json, \.jsonl, \.md, \.parquet, \.txt"):
        resolved(str(tmp_path))


def test_columns_that_mean_nothing_for_a_text_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.jsonl")
    with pytest.raises(SourceError, match=r"has no dataset\.subset, dataset\.split"):
        resolved(str(path), subset="en", split="test")
    with pytest.raises(SourceError, match=r"has no dataset\.revision, dataset\.tokens_column"):
        resolve(DatasetConfig(revision="main", tokens_column="ids"))


def test_an_unknown_built_in_text_is_refused_with_those_there_are() -> None:
    with pytest.raises(SourceError, match="there are builtin:python-stdlib and builtin:othello; did you mean"):
        resolved("builtin:python-std")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("builtin:python-stdlib", StandardLibrary),
        ("builtin:othello", OthelloGames),
        ("/no/such/folder", LocalText),
        ("~/text.md", LocalText),
        ("tests", LocalText),
        ("table.jsonl", LocalText),
        ("owner/name", HubDataset),
    ],
)
def test_a_name_decides_the_kind_of_text(name: str, kind: type) -> None:
    assert isinstance(kind_of(name), kind)


class Alphabet:
    """A fifth kind of text: one letter a document."""

    holds_ids = False
    can_change = False

    def recognizes(self, name: str) -> bool:
        return name == "builtin:alphabet"

    def columns(self, config: DatasetConfig) -> Collection[str]:
        return {"name", "documents"}

    def digest(self, config: DatasetConfig, look_up: DigestLookup) -> str:
        return "abc"

    def documents(self, dataset: ResolvedDataset) -> Iterator[AnyDocument]:
        return (Document(letter, letter) for letter in "abcdefghijklmnopqrstuvwxyz")


def test_a_further_kind_of_text_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsae.text.pinning.KINDS", (Alphabet(), *KINDS))
    assert resolved("builtin:alphabet").digest == "abc"
    assert read("builtin:alphabet", documents=2) == [Document("a", "a"), Document("b", "b")]
    with pytest.raises(SourceError, match=r"has no dataset\.split, dataset\.seed"):
        resolved("builtin:alphabet", split="test", seed=1)


@pytest.mark.slow
def test_the_built_in_text_resolves_to_the_digest_of_its_documents() -> None:
    found = resolved("builtin:python-stdlib")
    assert found.digest == digest_of(stdlib_documents())
    assert list(documents(found)) == list(stdlib_documents())


def test_the_digest_of_files_is_asked_for_again_only_when_one_of_them_changed(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.jsonl")
    remembered: dict[str, str] = {}

    def cached(key, compute):
        if key not in remembered:
            remembered[key] = compute()
        return remembered[key]

    one, again = (resolved(str(path), cached).digest for _ in range(2))
    assert one == again
    assert len(remembered) == 1
    write_jsonl(path, ROWS[:1])
    assert resolved(str(path), cached).digest != one
    assert len(remembered) == 2


def test_the_digest_of_a_folder_depends_on_names_and_contents_and_not_on_its_place(tmp_path: Path) -> None:
    digests = {}
    for folder, files in {
        "one": {"a.txt": "bc", "d.txt": ""},
        "same": {"d.txt": "", "a.txt": "bc", "other.bin": "?"},
        "renamed": {"ab.txt": "bc", "d.txt": ""},
        "changed": {"a.txt": "b", "d.txt": "c"},
    }.items():
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
        digests[folder] = resolved(str(tmp_path / folder)).digest
    assert digests["one"] == digests["same"]
    assert len(set(digests.values())) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_folder_is_read_by_split_streaming_or_not(
    dataset_folder: Path, streaming: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    train = read(dataset_folder, streaming=streaming)
    assert train == [Document(str(n), f"row {n}") for n in range(5)]
    assert read(dataset_folder, streaming=streaming, split="test") == [Document("0", "tested")]
    ids = read(dataset_folder, streaming=streaming, tokens_column="ids", documents=2)
    assert ids == [TokenDocument("0", [0]), TokenDocument("1", [1])]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": "tset"}, r"split 'tset'.*test"),
        ({"subset": "english"}, r"subset 'english'.*default"),
        ({"column": "txt"}, r"no column 'txt'; there are text, ids; did you mean text\?"),
    ],
)
def test_what_a_dataset_folder_does_not_have_is_named_with_what_it_has(
    dataset_folder: Path, streaming: bool, columns: dict, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read(dataset_folder, streaming=streaming, **columns)


def test_a_hub_name_with_a_commit_is_resolved_without_asking_anyone() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    assert resolved("owner/name", revision=commit).digest == commit


@pytest.mark.parametrize("name", ["owner/name/more", "bad name", "data?"])
def test_a_name_that_can_be_neither_file_nor_dataset_is_refused(name: str) -> None:
    with pytest.raises(SourceError, match=r"no such local file or folder, and no possible name.*builtin:python-stdlib"):
        resolved(name)


def test_a_hub_that_cannot_be_reached_fails_in_seconds_and_says_what_to_do() -> None:
    code = "from lmsae.text.pinning import *; resolve(DatasetConfig(name='owner/name'))"
    dead = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    begun = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], env=dead, capture_output=True, text=True, check=False)
    assert time.monotonic() - begun < 20
    assert (
        "SourceError: dataset.name 'owner/name': no such local file or folder, the hub cannot be asked" in result.stderr
    )
    assert "builtin:python-stdlib" in result.stderr


def test_offline_the_commit_in_the_local_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "datasets--owner--name"
    (folder / "snapshots/older").mkdir(parents=True)
    (folder / "snapshots/newer").mkdir()
    os.utime(folder / "snapshots/older", (1, 1))
    assert resolved("owner/name").digest == "newer"
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("older\n")
    assert resolved("owner/name").digest == "older"
    with pytest.raises(SourceError, match="cache does not hold it"):
        resolved("owner/name", revision="v2")


def test_a_commit_that_cannot_be_fetched_is_an_error() -> None:
    gone = ResolvedDataset(name="owner/name", digest="0" * 40)
    with pytest.raises(SourceError, match=r"dataset\.name 'owner/name'"):
        list(documents(gone))


def test_the_plan_can_import_this_room_without_heavy_libraries() -> None:
    code = (
        "import sys, lmsae.text.pinning, lmsae.text.packing; "
        "print({'torch', 'transformers', 'datasets', 'zarr', 'pyarrow', 'huggingface_hub'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


SAID = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_messages_is_read_as_conversations_of_roles_and_contents(tmp_path: Path, suffix: str) -> None:
    rows = [{"chat": [{**message, "model": "m"} for message in SAID]}, {"chat": None}]
    path = tmp_path / f"chats{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    assert read(path, messages_column="chat") == [ChatDocument(f"chats{suffix}:0", SAID)]


@pytest.mark.parametrize(
    "chat", [["Hello"], [{"from": "human", "value": "Hello"}], [{"role": "user", "content": [{"text": "x"}]}], "Hello"]
)
def test_what_is_no_conversation_is_refused_by_row(tmp_path: Path, chat: object) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", [{"chat": SAID}, {"chat": chat}])
    with pytest.raises(SourceError, match=r"row chats\.jsonl:1, column 'chat': expected"):
        read(path, messages_column="chat")


def test_a_text_has_tokens_or_messages_and_not_both() -> None:
    with pytest.raises(ValidationError, match="leave one of them empty"):
        DatasetConfig(name="x", tokens_column="ids", messages_column="chat")


def test_a_mixture_pins_each_text_with_its_own_columns_and_its_share(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "web.jsonl", [{"body": "web"}])
    write_jsonl(tmp_path / "chats.jsonl", [{"chat": SAID}])
    found = mixed(f"3*{tmp_path}/web.jsonl 1*{tmp_path}/chats.jsonl?messages_column=chat&documents=1", column="body")
    chats, web = found.sources
    assert (chats.weight, web.weight) == (0.25, 0.75)
    assert web.dataset == resolved(tmp_path / "web.jsonl", column="body")
    assert chats.dataset == resolved(tmp_path / "chats.jsonl", column="body", messages_column="chat", documents=1)
    assert [list(documents(dataset)) for _, dataset in found.weighted()] == [
        [ChatDocument("chats.jsonl:0", SAID)],
        [Document("web.jsonl:0", "web")],
    ]
    assert found.name == f"0.25*{tmp_path}/chats.jsonl 0.75*{tmp_path}/web.jsonl"


def test_how_a_mixture_is_written_does_not_change_what_it_is(tmp_path: Path) -> None:
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}])
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one, other = mixed(f"0.3*{a} 0.7*{b}"), mixed(f"7*{b}  3*{a}?split=train")
    assert canonical_json(one) == canonical_json(other)
    assert canonical_json(one) != canonical_json(mixed(f"0.7*{a} 0.3*{b}"))
    assert ResolvedMixture.model_validate_json(canonical_json(one)) == one


def test_a_mixture_of_one_text_is_that_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    assert resolved(f"0.5*{path}?documents=1") == resolved(path, documents=1)
    assert resolved(path).weighted() == [(1.0, resolved(path))]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("1*{a}?colum=x 1*{b}", r"a\.jsonl\?colum: there is no such column of `dataset`; did you mean column"),
        ("1*{a}?documents=many 1*{b}", r"a\.jsonl\?documents=many: .*integer"),
        ("1*{a} 1*{a}", r"stands twice in the mixture"),
        ("1*{a} 1*./none.jsonl", r"'\./none\.jsonl': there is no such file"),
        ("1*{a} {b}", r"is no part of a mixture"),
        ("1*{a}?seed=3 1*{b}", r"a\.jsonl'?: such a text has no dataset\.seed"),
    ],
)
def test_what_is_wrong_with_a_mixture_is_named(tmp_path: Path, mixture: str, message: str) -> None:
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}])
    with pytest.raises(SourceError, match=message):
        mixed(mixture.format(a=tmp_path / "a.jsonl", b=tmp_path / "b.jsonl"))


def test_games_are_a_text_of_ids_of_which_one_says_how_many() -> None:
    games = read("builtin:othello", documents=3, seed=1)
    assert [len(game.ids) for game in games if isinstance(game, TokenDocument)] == [60, 60, 60]
    assert resolved("builtin:othello", documents=3).digest != resolved("builtin:othello", documents=3, seed=1).digest
    assert holds_ids(resolved("builtin:othello", documents=3))
    with pytest.raises(SourceError, match=r"set dataset\.documents to the number of games"):
        resolved("builtin:othello")
    with pytest.raises(SourceError, match=r"has no dataset\.split, dataset\.column"):
        resolved("builtin:othello", documents=3, split="test", column="x")
    with pytest.raises(SourceError, match="not the one that was planned"):
        list(documents(ResolvedDataset(name="builtin:othello", documents=3, digest="0" * 64)))
