"""Text to a scored dictionary: lmsae's stages beside SAELens' own runner, on the built-in model and text.

    python benchmarks/end_to_end.py --rounds 1 > benchmarks/results/WHEN-WHERE-end-to-end.md

One topk dictionary of the residual stream. lmsae runs its stages from `tokenize` to `eval`, each in a process of its
own, as Snakemake starts them. SAELens runs LanguageModelSAETrainingRunner on the same documents, with live activations
of a bridge, and then its own `run_evals` with all that lmsae measures and it knows, in one process. Each is timed from
its first process to its last. Both dictionaries are then scored by `lmsae eval` on the same held-out tokens, untimed.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from pyarrow import parquet

HERE = Path(__file__).parents[1]
STAGES = ("plan", "tokenize", "activations", "norm", "init", "train", "eval")
MODEL, HOOK_POINT, CONTEXT, WIDTH, K = "builtin:stdlib-4m", "blocks.2.hook_resid_post", 256, 256, 32
MORE = 50_000
"""Tokens of text beyond those that are trained on: calibration takes its share."""
QUALITY = ("explained_variance", "ce_spliced", "ce_clean", "l0", "dead_share")


def call(folder: Path, *command: str) -> float:
    """The seconds of a process. It must succeed."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(HERE), "WANDB_MODE": "disabled"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.perf_counter() - started


def write_project(folder: Path, arguments: argparse.Namespace) -> None:
    """config/ with one row."""
    (folder / "config").mkdir(parents=True)
    config = {
        "model": {"name": MODEL},
        "dataset": {"name": "builtin:python-stdlib"},
        "tokenize": {"context_size": CONTEXT, "tokens": arguments.tokens + MORE},
        "sae": {"d_sae": arguments.d_sae},
        "train": {"tokens": arguments.tokens, "batch_size": arguments.batch, "lr": arguments.lr},
        "eval": {"tokens": arguments.evaluated},
    }
    (folder / "config/config.yaml").write_text(json.dumps(config))  # which is YAML, too
    with open(folder / "config/sweep.tsv", "w", newline="") as file:
        sheet = csv.writer(file, delimiter="\t", lineterminator="\n")
        sheet.writerows([("name", "sae.hook_point", "sae.architecture", "sae.k"), ("one", HOOK_POINT, "topk", K)])


def run_lmsae(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The seconds of each stage."""
    write_project(folder, arguments)
    return {stage: call(folder, "-m", "lmsae.cli", stage) for stage in STAGES}


def run_saelens(folder: Path, arguments: argparse.Namespace) -> None:
    """In a process of its own: SAELens' runner and its evaluation. Prints the seconds that each took."""
    from datasets import Dataset
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        SAETransformerBridge,
        TopKTrainingSAEConfig,
    )
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler
    from sae_lens.training.activations_store import ActivationsStore

    from lmsae.lm import resolve
    from lmsae.lm.resolving import weights_folder

    documents = json.loads((folder / "documents.json").read_text())
    train, held_out = (Dataset.from_list([{"text": text} for text in documents[split]]) for split in documents)
    bridge = SAETransformerBridge.boot_transformers(str(weights_folder(resolve(MODEL))), device="cpu")
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=WIDTH, d_sae=arguments.d_sae, k=K),
        model_name=MODEL,
        hook_name="blocks.2.hook_out",  # a bridge's name of the same
        dataset_path="given",
        is_dataset_tokenized=False,
        streaming=False,
        context_size=CONTEXT,
        training_tokens=arguments.tokens,
        train_batch_size_tokens=arguments.batch,
        lr=arguments.lr,
        exclude_special_tokens=True,
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=str(folder / "saelens"),
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    started = time.perf_counter()
    sae = LanguageModelSAETrainingRunner(config, override_dataset=train, override_model=bridge).run()
    trained = time.perf_counter()
    batches = -(-arguments.evaluated // (config.store_batch_size_prompts * CONTEXT))
    run_evals(
        sae,
        ActivationsStore.from_config(bridge, config, override_dataset=held_out),
        bridge,
        ActivationScaler(),
        get_eval_everything_config(None, batches, batches),
    )
    print(json.dumps({"train": trained - started, "eval": time.perf_counter() - trained}))


def read_documents(tokenized: Path) -> dict[str, list[str]]:
    """The text of the documents of each split."""
    from lmsae.text.stdlib import stdlib_documents

    split_of = {line["name"]: line["split"] for line in parquet.read_table(tokenized / "documents.parquet").to_pylist()}
    texts: dict[str, list[str]] = {"train": [], "held_out": []}
    for document in stdlib_documents():
        if document.name in split_of:
            texts[split_of[document.name]].append(document.text)
    return texts


def only(folder: Path) -> Path:
    (found,) = folder.glob("*/manifest.json")
    return found.parent


def quality(metrics: Path) -> str:
    measured = json.loads(metrics.read_text())
    return " | ".join(f"{measured[name]:.3f}" for name in QUALITY)


def measure(folder: Path, arguments: argparse.Namespace) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """One round: the seconds of lmsae's stages, those of SAELens' process and its parts, and the quality of both."""
    ours, artifacts = run_lmsae(folder, arguments), folder / "artifacts"
    (folder / "documents.json").write_text(json.dumps(read_documents(only(artifacts / "tokenize"))))
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, __file__, *sys.argv[1:], "--saelens", str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, stdout=said, check=True)
        theirs = {"process": time.perf_counter() - started}
        said.seek(0)
        theirs |= json.loads(said.read().strip().splitlines()[-1])
    found = {"lmsae": quality(only(artifacts / "eval") / "metrics.json")}
    before = {*artifacts.glob("eval/*/metrics.json")}
    settings = [("tokenize.context_size", CONTEXT), ("tokenize.tokens", arguments.tokens + MORE)]
    overrides = [f"--set={name}={value}" for name, value in (*settings, ("eval.tokens", arguments.evaluated))]
    call(
        folder,
        "-m",
        "lmsae.cli",
        "eval",
        "--dictionary",
        "saelens",
        "--model",
        MODEL,
        "--hook-point",
        HOOK_POINT,
        *overrides,
    )
    (new,) = {*artifacts.glob("eval/*/metrics.json")} - before
    found["SAELens"] = quality(new)
    return ours, theirs, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--evaluated", type=int, default=50_000, help="held-out tokens that both evaluate")
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--saelens", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.saelens:
        run_saelens(arguments.saelens, arguments)
        return
    rounds = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(Path(folder), arguments))
    print(
        f"{arguments.tokens:,} tokens, {arguments.evaluated:,} held out; topk, k {K}, {arguments.d_sae:,} latents at "
        f"{HOOK_POINT}, batch {arguments.batch:,}, lr {arguments.lr}. {time.strftime('%Y-%m-%d')}, "
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, sae-lens {version('sae-lens')}; "
        f"median of {arguments.rounds} rounds.\n"
    )
    print(f"| | seconds | times SAELens | {' | '.join(QUALITY)} |\n|---|---|---|{'---|' * len(QUALITY)}")
    ours = [sum(one.values()) for one, _, _ in rounds]
    theirs = [one["process"] for _, one, _ in rounds]
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print(f"| SAELens | {statistics.median(theirs):.0f} | 1.00 | {rounds[-1][2]['SAELens']} |")
    print(f"| lmsae | {statistics.median(ours):.0f} | {ratio:.2f} | {rounds[-1][2]['lmsae']} |\n")
    for name, parts in (("lmsae", [one for one, _, _ in rounds]), ("SAELens", [one for _, one, _ in rounds])):
        told = [f"{part} {statistics.median(one[part] for one in parts):.1f}" for part in parts[0]]
        print(f"{name}, seconds of each process: {', '.join(told)}.  ")


if __name__ == "__main__":
    main()
