"""du: bytes by stage, row and age, and what is half made."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.runtime.numbers import format_age, format_bytes, parse_age, parse_bytes
from tests.miniature import ROWS, Said, keys, write_sweep

Lmsae = Callable[..., Said]


def cells(said: str, first: str) -> list[str]:
    """The cells behind the first of a line."""
    line = next(line for line in said.splitlines() if line.startswith(f"{first}  "))
    return [cell for cell in line.removeprefix(first).split("  ") if cell.strip()]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_du_counts_every_byte_of_the_folder_once(finished: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    said = lmsae("du")
    assert said.code == 0
    artifacts = finished / "artifacts"
    assert cells(said.out, "all")[2].strip() == format_bytes(bytes_in(artifacts))
    for stage in ("activations", "train", "report"):
        assert cells(said.out, stage)[2].strip() == format_bytes(bytes_in(artifacts / stage))
    assert cells(said.out, "train")[0].strip() == "4"
    assert cells(said.out, "today")[0].strip() == str(len(list(artifacts.glob("*/*/manifest.json"))))
    assert "half made " not in said.out.split("\n\n", 1)[1]


def test_du_and_gc_agree_on_what_no_sweep_wants_where_a_spec_was_left(made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, [*ROWS, {**ROWS[0], "name": "never", "train.lr": "0.002"}])
    assert lmsae("plan").code == 0
    Artifacts(made / "artifacts").begin(f"train/{keys(made, 'train')[-1]}")
    write_sweep(made, ROWS)
    assert lmsae("plan").code == 0
    said = lmsae("du").out
    left = cells(said, "all")[-1].strip()
    assert left == cells(said, "today")[-1].strip() != "0 bytes"
    found = lmsae("gc").out.splitlines()[-1].partition("1 artifact, ")[2].partition(" bytes")[0]
    assert format_bytes(int(found.replace(",", ""))) == left


def test_du_tells_what_a_row_wants_and_what_it_wants_alone(
    finished: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    said = lmsae("du").out
    artifacts = finished / "artifacts"
    all_, alone = (cell.strip() for cell in cells(said, "jump"))  # the only row at its hook point
    shared = bytes_in(next((artifacts / "tokenize").iterdir()))
    hers = sum(bytes_in(artifacts / one) for one in wants_of(finished, "jump"))
    assert all_ == format_bytes(hers)
    assert alone == format_bytes(hers - shared)


def wants_of(folder: Path, row: str) -> list[str]:
    from lmsae.artifacts.artifact import Artifacts
    from lmsae.planning.sweeps import known_sweeps

    (sweep,) = known_sweeps(Artifacts(folder / "artifacts"))
    return sorted({*sweep.wants[row]})


def test_du_names_what_is_half_made_and_says_who_makes_it(made: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    first, second, third, _ = (made / "artifacts/train" / key for key in keys(made, "train"))
    for folder in (first, second, third):
        (folder / "manifest.json").unlink()
        (folder / ".manifest.json").unlink()
    owner = subprocess.run(
        ["python", "-c", "import os; from lmsae.artifacts.owner import this_process as p; print(p('t').text.decode())"],
        capture_output=True,
        check=True,
    )
    (second / ".claim").write_bytes(owner.stdout.strip())
    with hold_claim(first):
        said = lmsae("du").out
    assert f"process {os.getpid()} on " in next(line for line in said.splitlines() if first.name in line)
    assert "is dead" in next(line for line in said.splitlines() if second.name in line)
    assert "nobody makes it" in next(line for line in said.splitlines() if third.name in line)
    assert [one.strip() for one in cells(said, "train")[:2]] == ["1", "3"]


def test_du_tells_how_much_no_sweep_wants_and_how_old_it_is(made: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    lost = made / "artifacts/train" / keys(made, "train")[-1]
    age(lost, 40)
    write_sweep(made, ROWS[:3])
    lmsae("plan")
    said = lmsae("du").out
    assert cells(said, "train")[-1].strip() == format_bytes(bytes_in(lost))
    assert [one.strip() for one in cells(said, "three months")] == ["1", *[format_bytes(bytes_in(lost))] * 2]


def age(folder: Path, days: float) -> None:
    """Make all files of a folder as old as that."""
    then = time.time() - days * 86_400
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def test_du_needs_no_sheet_without_faults(fresh: Path, lmsae: Lmsae) -> None:
    (fresh / "config/sweep.tsv").write_text("nonsense")
    assert lmsae("du").code == 0


def test_gc_takes_only_what_is_old_or_large_enough(made: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    write_sweep(made, ROWS[:3])
    unwanted = [line.split()[1] for line in lmsae("gc").out.splitlines() if line.startswith("unwanted")]
    old = next(one for one in unwanted if one.startswith("train/"))
    age(made / "artifacts" / old, 31)
    said = lmsae("gc", "--older-than", "30d").out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("unwanted")] == [old]
    assert f"left {len(unwanted) - 1} that no sweep wants either" in said
    assert "the same command with --delete removes what it lists" in said
    large = {one for one in unwanted if bytes_in(made / "artifacts" / one) >= 50_000}
    assert 0 < len(large) < len(unwanted)
    said = lmsae("gc", "--larger-than", "50kB").out
    assert {line.split()[1] for line in said.splitlines() if line.startswith("unwanted")} == large
    assert lmsae("gc", "--older-than", "30d", "--delete").code == 0
    left = [one for one in unwanted if (made / "artifacts" / one).exists()]
    assert left == [one for one in unwanted if one != old]


def test_gc_removes_the_oldest_until_the_folder_is_small_enough(made: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    write_sweep(made, ROWS[:3])
    unwanted = [line.split()[1] for line in lmsae("gc").out.splitlines() if line.startswith("unwanted")]
    oldest_first = sorted(unwanted, reverse=True)
    for days, one in enumerate(reversed(oldest_first), start=1):
        age(made / "artifacts" / one, days)
    total = bytes_in(made / "artifacts")
    two = sum(bytes_in(made / "artifacts" / one) for one in oldest_first[:2])
    said = lmsae("gc", "--down-to", f"{total - two}B", "--delete").out
    assert {line.split()[1] for line in said.splitlines() if line.startswith("removed")} == {*oldest_first[:2]}
    said = lmsae("gc", "--down-to", "1kB").out
    assert "stay, more than 1kB: sweeps want them" in said


@pytest.mark.parametrize("flags", [["--older-than", "soon"], ["--larger-than", "10"], ["--down-to", "-3GB"]])
def test_gc_refuses_an_age_or_a_size_that_is_none(flags: list[str], lmsae: Lmsae) -> None:
    with pytest.raises(SystemExit):
        lmsae("gc", *flags)


def test_ages_and_sizes_are_read_as_people_write_them() -> None:
    assert [parse_age(text) for text in ("12h", "30d", "1.5 W")] == [43_200, 2_592_000, 907_200]
    assert [parse_bytes(text) for text in ("1B", "500MB", "1.5 tb", "2kB")] == [1, 5e8, 1.5e12, 2000]
    assert [format_age(seconds) for seconds in (30, 3 * 3600, 12.4 * 86_400)] == ["30 s", "3 h", "12 d"]
