"""Limits of memory: of the machine, of control groups of both versions, and of the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmsae.runtime.limits import LIBRARIES, Limit, find_limits, tightest_limit

GB = 10**9
GROUP = "the memory limit of its control group"
FIND = """
import json, resource, sys
from lmsae.runtime.limits import find_limits
for name, nbytes in json.loads(sys.argv[1]).items():
    resource.setrlimit(getattr(resource, name), (nbytes, nbytes))
print(json.dumps([[limit.nbytes, limit.name, limit.counted] for limit in find_limits()]))
"""


def write(system: Path, files: dict[str, str]) -> Path:
    """A folder that has `proc` and `sys`, with a machine of 8 GB and a GB of swap."""
    files = {"proc/meminfo": "MemTotal:  8000000 kB\nMemFree: 5 kB\nSwapTotal:  1000000 kB\n", **files}
    for name, text in files.items():
        path = system / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return system


def found(system: Path) -> dict[str, int]:
    """The limits that are read from files, by name without the folder."""
    return {
        limit.name.replace(f"{system}/", ""): limit.nbytes
        for limit in find_limits(system)
        if "ulimit" not in limit.name
    }


def test_a_machine_has_its_memory_and_its_swap(tmp_path: Path) -> None:
    assert found(write(tmp_path, {})) == {"the memory of this machine": 9_000_000 * 1024}


def test_limits_of_version_2_are_those_of_the_group_and_of_all_around_it(tmp_path: Path) -> None:
    system = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/jobs/one\n",
            "sys/fs/cgroup/jobs/one/memory.max": f"{2 * GB}\n",
            "sys/fs/cgroup/jobs/one/memory.swap.max": "0\n",
            "sys/fs/cgroup/jobs/memory.max": f"{GB}\n",
            "sys/fs/cgroup/jobs/memory.swap.max": "max\n",
            "sys/fs/cgroup/memory.max": "max\n",
        },
    )
    limits = found(system)
    assert limits[f"{GROUP} (sys/fs/cgroup/jobs/one/memory.max)"] == 2 * GB
    assert limits[f"{GROUP} (sys/fs/cgroup/jobs/memory.max)"] == GB + 1_000_000 * 1024
    assert len(limits) == 3
    limit = tightest_limit(system)
    assert limit == Limit(2 * GB, f"{GROUP} ({system}/sys/fs/cgroup/jobs/one/memory.max)")


def test_limits_of_version_1_are_found_beside_other_controllers(tmp_path: Path) -> None:
    system = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu:/else\n4:memory,hugetlb:/jobs/one\n0::/\n",
            "sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes": f"{3 * GB}\n",
            "sys/fs/cgroup/memory/jobs/one/memory.memsw.limit_in_bytes": f"{3 * GB + 5}\n",
            "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/else/memory.limit_in_bytes": "7\n",
        },
    )
    limits = found(system)
    assert limits[f"{GROUP} (sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes)"] == 3 * GB + 1_000_000 * 1024
    assert limits[f"{GROUP} (sys/fs/cgroup/memory/jobs/one/memory.memsw.limit_in_bytes)"] == 3 * GB + 5
    assert len(limits) == 3


@pytest.mark.parametrize("text", ["", "0::", "0::/../../etc\n", "4:memory:/gone\n", "nonsense"])
def test_groups_that_cannot_be_read_are_no_limit(tmp_path: Path, text: str) -> None:
    assert list(found(write(tmp_path, {"proc/self/cgroup": text}))) == ["the memory of this machine"]


def test_a_system_that_tells_nothing_still_has_a_size(tmp_path: Path) -> None:
    wanted = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found(tmp_path) == {"the memory of this machine": wanted}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse such limits")
def test_limits_of_the_process_itself_are_found_with_what_they_count() -> None:
    asked = {"RLIMIT_AS": 6 * GB, "RLIMIT_DATA": 5 * GB}
    command = [sys.executable, "-c", FIND, json.dumps(asked)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [6 * GB, "the limit of `ulimit -v`", "mapped"] in said
    assert [5 * GB, "the limit of `ulimit -d`", "data"] in said


def test_the_tightest_limit_leaves_the_least_room_beside_the_libraries() -> None:
    resident, mapped = Limit(2 * GB, "a"), Limit(2 * GB, "b", "mapped")
    assert (resident.room, mapped.room) == (2 * GB - LIBRARIES["resident"], 2 * GB - LIBRARIES["mapped"])
    assert Limit(10**6, "c").room == 0
