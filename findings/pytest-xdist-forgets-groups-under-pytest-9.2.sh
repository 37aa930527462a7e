#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0: `--dist loadgroup` spreads the tests of one xdist_group over several workers, and
# says nothing. Under pytest 9.1.1 all tests of a group run in one worker, as documented.
#
# Two groups of eight tests each run on two workers, and each test notes its worker. Seen: one worker a group under
# 9.1.1; two workers a group under 9.2.0. So a fixture that a group was to share is made twice, and tests that were to run one after the
# other run at the same time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > test_groups.py <<'END'
import os
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize(
    "group", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("first", "second")]
)
def test_worker(group, number):
    time.sleep(0.1)
    with Path(f"{group}.txt").open("a") as notes:
        notes.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
END
workers() { # the largest number of workers that ran one group under the pytest that is named
    rm -rf venv ./*.txt
    python3 -m venv venv
    venv/bin/pip install --quiet "pytest==$1" pytest-xdist==3.8.0
    venv/bin/pytest -q -n 2 --dist loadgroup test_groups.py > out.log || { cat out.log >&2; return 1; }
    for group in first second; do sort -u "$group.txt" | wc -l; done | sort -n | tail -n 1
}
before=$(workers 9.1.1)
after=$(workers 9.2.0)
echo "workers of one group: $before under pytest 9.1.1, $after under pytest 9.2.0"
[ "$before" = 1 ] && [ "$after" = 2 ]
