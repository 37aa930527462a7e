"""Artifacts of a colleague's folder are used where they lie (`runtime.also_look_in`), and nothing is done there."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lmsae as package
from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.lending import REFUSED
from lmsae.errors import ConfigError
from tests.miniature import ROWS, Said, keys, manifests, write_config, write_sweep

Lmsae = Callable[..., Said]
NEW = {**ROWS[0], "name": "new", "train.lr": "0.002"}
"""A row that nobody has trained. It reads the activations of the others."""


def everything_in(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, mode and time of each file and folder: whoever writes, renames or removes anything changes one."""
    found = [(path, path.stat()) for path in [folder, *folder.rglob("*")]]
    return {str(path): (state.st_size, state.st_mode, state.st_mtime_ns) for path, state in found}


@pytest.fixture
def lender(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The artifacts of a colleague, who lets nobody write. In the end they are as they were, or the test fails."""
    folder = tmp_path / "colleague"
    shutil.copytree(finished / "artifacts", folder)
    set_writable(folder, False)
    yield folder
    set_writable(folder, True)


def set_writable(folder: Path, is_writable: bool) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755 if is_writable else 0o555)


@pytest.fixture
def borrowing(fresh: Path, lender: Path) -> Path:
    """A project of which nothing is made, with the same sweep as the colleague's."""
    write_config(fresh, runtime={"also_look_in": [str(lender)]})
    return fresh


def test_a_plan_counts_what_a_colleague_has_made_and_a_run_makes_nothing(
    borrowing: Path, lender: Path, lmsae: Lmsae
) -> None:
    before = everything_in(lender)
    said = lmsae("plan").out
    wanted = len(list(lender.glob("*/*/manifest.json")))
    assert f"{wanted} of those done are lent by {lender} (runtime.also_look_in)" in said
    assert {line.split()[-1] for line in said.splitlines() if line.startswith(("train ", "eval "))} == {"0"}
    said = lmsae("run")
    assert said.code == 0
    assert said.err.count(" 0 made") == 9, said.err
    assert manifests(borrowing) == {}
    assert (borrowing / "results/rows/top/train").resolve() == lender / "train" / keys(borrowing, "train")[0]
    assert (borrowing / "results/report.html").exists()
    assert everything_in(lender) == before


def test_a_new_row_reads_what_is_lent_in_place_and_is_what_it_is_without_a_lender(
    borrowing: Path, lender: Path, lmsae: Lmsae, finished: Path, tmp_path: Path
) -> None:
    before = everything_in(lender)
    write_sweep(borrowing, [NEW])
    assert lmsae("run", "new").code == 0
    made = manifests(borrowing)
    assert sorted({one.split("/")[0] for one in made}) == ["eval", "features", "page", "train"]
    (trained,) = (borrowing / "artifacts/train").iterdir()
    lent = json.loads((trained / "run.json").read_text())["lent"]
    assert {one.split("/")[0] for one in lent} == {"activations", "init", "norm", "tokenize"}
    assert all(folder == str(lender / reference) for reference, folder in lent.items())
    shown = lmsae("show", "new").out
    assert f"finished, lent by {lender}" in shown
    assert everything_in(lender) == before
    alone = tmp_path / "alone"
    shutil.copytree(finished, alone, symlinks=True)
    write_sweep(alone, [NEW])
    assert lmsae("run", "new", "--folder", str(alone)).code == 0
    assert made == {one: manifests(alone)[one] for one in made}


def test_what_is_half_made_or_of_another_size_is_made_here(borrowing: Path, lender: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    first, second, third, _ = (lender / "train" / key for key in keys(borrowing, "train"))
    set_writable(lender, True)
    (first / "manifest.json").unlink()
    with (second / "dictionary.safetensors").open("ab") as file:
        file.write(b"more")
    (third / "spec.json").write_text((third / "spec.json").read_text().replace('"stage":"train"', '"stage":"eval"'))
    before = everything_in(lender)
    assert lmsae("run", "top", "batch", "plain", "jump").code == 0
    here = {one for one in manifests(borrowing) if one.startswith("train/")}
    assert here == {f"train/{path.name}" for path in (first, second, third)}
    assert everything_in(lender) == before
    assert not (first / "manifest.json").exists(), "a manifest is restored at home only"


def test_verify_advises_nobody_to_delete_what_is_a_colleagues(borrowing: Path, lender: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    file = lender / "train" / keys(borrowing, "train")[0] / "dictionary.safetensors"
    set_writable(lender, True)
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    said = lmsae("verify")
    assert said.code == 1
    assert "`lmsae run` makes it here" in said.out
    assert "Delete" not in said.out


@pytest.mark.parametrize("fault", ["there is no folder", "is a project; name its folder of artifacts"])
def test_load_refuses_a_folder_that_lends_nothing(fault: str, tmp_path: Path) -> None:
    (tmp_path / "project/artifacts").mkdir(parents=True)
    with pytest.raises(ConfigError, match=fault):
        package.load("top", also_look_in=[tmp_path / ("gone" if "no folder" in fault else "project")])


def test_bytes_that_are_not_what_was_written_are_found_by_the_job_and_made_here_by_the_next_run(
    borrowing: Path, lender: Path, lmsae: Lmsae
) -> None:
    lmsae("plan")
    norm = lender / "norm" / keys(borrowing, "norm")[0]
    file = max((path for path in norm.glob("*.safetensors")), key=lambda path: path.stat().st_size)
    set_writable(lender, True)
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    before = everything_in(lender)
    write_sweep(borrowing, [NEW])
    said = lmsae("run", "new")
    assert said.code == 2
    assert f"{file}: its bytes are not those that were written. It is lent by {lender}" in said.err
    assert "Run again, and it is made here" in said.err
    assert "norm " in lmsae("plan").out
    assert lmsae("run", "new").code == 0
    assert f"norm/{norm.name}" in manifests(borrowing)
    assert (borrowing / "artifacts/norm" / norm.name / REFUSED).exists()
    assert everything_in(lender) == before


def test_a_damaged_chunk_of_a_lent_store_is_refused_when_it_is_read(
    borrowing: Path, lender: Path, lmsae: Lmsae
) -> None:
    lmsae("plan")
    store = lender / "activations" / keys(borrowing, "activations")[0]
    shard = max((path for path in store.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    set_writable(lender, True)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    write_sweep(borrowing, [NEW])
    said = lmsae("run", "new")
    assert said.code == 2
    assert f"activations/{store.name} is lent by {lender} (runtime.also_look_in): run again" in said.err
    assert lmsae("run", "new").code == 0
    assert f"activations/{store.name}" in manifests(borrowing)


def test_verify_looks_at_what_is_lent_and_wanted(borrowing: Path, lender: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    assert lmsae("verify").code == 0
    train = lender / "train" / keys(borrowing, "train")[0]
    set_writable(lender, True)
    content = (train / "dictionary.safetensors").read_bytes()
    (train / "dictionary.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = lmsae("verify")
    assert said.code == 1
    assert f"train/{train.name} is lent by {lender}: `lmsae run` makes it here" in said.out
    assert "1 wanted but not made" in lmsae("verify").out


def test_a_lender_that_has_gone_is_an_error_and_not_an_empty_folder(
    borrowing: Path, lender: Path, lmsae: Lmsae
) -> None:
    lmsae("run")
    set_writable(lender, True)
    lender.rename(lender.with_name("moved"))
    for command in (["plan"], ["run"], ["train", "top"]):
        said = lmsae(*command)
        assert said.code == 2
        assert f"there is no folder {lender}" in said.err
        assert "or take it out of the list: what it lent is then made here" in said.err
    lender.with_name("moved").rename(lender)


def test_a_lent_input_that_went_after_the_plan_is_named_with_the_mend(
    borrowing: Path, lender: Path, lmsae: Lmsae
) -> None:
    write_sweep(borrowing, [NEW])
    lmsae("plan")
    norm = lender / "norm" / keys(borrowing, "norm")[0]
    set_writable(lender, True)
    shutil.rmtree(norm)
    said = lmsae("train", "new")
    assert said.code == 2
    assert f"norm/{norm.name}: not finished" in said.err
    assert "Make it with `lmsae norm" in said.err


def test_a_project_in_the_place_of_its_artifacts_is_named(borrowing: Path, finished: Path, lmsae: Lmsae) -> None:
    write_config(borrowing, runtime={"also_look_in": [str(finished)]})
    said = lmsae("plan")
    assert said.code == 2
    assert f"is a project; name its folder of artifacts, {finished / 'artifacts'}" in said.err


def test_gc_and_verify_leave_what_is_lent_alone(borrowing: Path, lender: Path, lmsae: Lmsae) -> None:
    before = everything_in(lender)
    lmsae("run")
    write_sweep(borrowing, [NEW])
    assert lmsae("gc", "--delete").code == 0
    assert everything_in(lender) == before
    assert not any((borrowing / "artifacts").glob("train/*/manifest.json"))


def test_what_is_lent_is_found_by_key_and_loaded(borrowing: Path, lender: Path, lmsae: Lmsae) -> None:
    import lmsae as package

    (key, *_) = sorted(path.name for path in (lender / "train").iterdir())
    said = lmsae("show", key[:10])
    assert said.code == 0
    assert f"lent by   {lender}" in said.out
    loaded = package.load(f"train/{key}", also_look_in=[lender])
    assert loaded.metrics["l0"] > 0
    assert loaded.home.reads
    with pytest.raises(package.errors.LmsaeError):
        package.load(f"train/{key}")


def test_python_reads_a_lent_row_too(borrowing: Path, lender: Path, lmsae: Lmsae) -> None:
    import lmsae as package

    assert lmsae("plan").code == 0
    assert package.load("top", also_look_in=[lender]).artifacts["train"].parent.parent == lender
    assert package.features("top", also_look_in=[lender]).latent(0)
    assert next(iter(package.activations("top", also_look_in=[lender]).batches(64)))


def test_the_first_of_several_lenders_is_taken_and_what_is_here_comes_before_all(
    borrowing: Path, lender: Path, finished: Path, tmp_path: Path
) -> None:
    reference = next(iter(manifests(finished)))
    other = tmp_path / "other"
    shutil.copytree(lender / reference, other / reference)
    assert Artifacts(borrowing / "artifacts", [other, lender])[reference].lender == other
    assert Artifacts(finished / "artifacts", [other, lender])[reference].lender is None
    (other / reference / "manifest.json").unlink()
    assert Artifacts(borrowing / "artifacts", [other, lender])[reference].lender == lender
