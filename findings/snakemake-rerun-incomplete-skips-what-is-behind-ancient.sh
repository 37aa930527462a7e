#!/usr/bin/env bash
# Snakemake 9.27.1: after an engine was killed, `--rerun-incomplete` can leave out jobs whose outputs do not exist, and
# end with exit code 0.
#
# A chain a -> b -> c, whose inputs are ancient(). The engine is killed with SIGKILL while job a runs, and the job goes on
# to its end by itself. a.txt is there and complete, but Snakemake's notes call it incomplete. The next run with
# --rerun-incomplete plans job a alone ("total 1"), makes it, and says that all is done. b.txt and c.txt, of which c.txt
# is the target, do not exist. A second run makes them.
# Without ancient(), or with --ignore-incomplete, the first rerun makes all that is missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet snakemake==9.27.1
export PATH=$folder/venv/bin:$PATH
mkdir work
cd work
cat > Snakefile <<'END'
rule all:
    input: "c.txt"

rule a:
    output: "a.txt"
    shell: "echo begun > begun; sleep 5; echo a > {output}"

rule b:
    input: ancient("a.txt")
    output: "b.txt"
    shell: "echo b > {output}"

rule c:
    input: ancient("b.txt")
    output: "c.txt"
    shell: "echo c > {output}"
END

snakemake --cores 1 > first.log 2>&1 &
engine=$!
until [ -e begun ]; do sleep 0.1; done
kill -9 "$engine"
wait "$engine" || true
until [ -e a.txt ]; do sleep 0.1; done
snakemake --unlock > unlock.log 2>&1

snakemake --cores 1 --rerun-incomplete > second.log 2>&1
code=$?
grep -A 4 '^Job stats' second.log
[ "$code" = 0 ]
grep -qE '^total +1$' second.log
[ ! -e b.txt ]
[ ! -e c.txt ]
echo "exit code 0, and the target c.txt does not exist"

snakemake --cores 1 --rerun-incomplete > third.log 2>&1
[ -e c.txt ]
echo "seen as described with Snakemake $(snakemake --version)"
