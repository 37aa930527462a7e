"""Every ready experiment is documented, can be planned as it is, and runs with its model and text made small."""

import importlib.util
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lmsae.artifacts.artifact import Artifacts
from lmsae.cli import main, parser
from lmsae.commands.running import run_stage
from lmsae.planning.plan import plan_of
from lmsae.text.tokens import open_tokens
from tests.miniature import write_model, write_text

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "config" / "examples"
INDEX = EXAMPLES / "README.md"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
EVERY_EXAMPLE = pytest.mark.parametrize("name", NAMES)
QUICK = ("checkpoints-crosscoder", "tinystories-gated")
"""Those of every test run; CI runs all of them end to end."""
pytestmark = pytest.mark.xdist_group("examples")

TEXT = {"dataset.name": "text", "dataset.subset": "null", "dataset.streaming": "false"}
IDS = {"dataset.name": "ids.jsonl", "dataset.streaming": "false"}
# What stands in for an example's model and text: as many layers, and the same kind of text.
STAND_INS: dict[str, dict[str, str]] = {
    "chat-mixture": {
        "model.name": "qwen2",
        "dataset.name": "0.6*text 0.4*chats.jsonl?messages_column=messages",
        "dataset.streaming": "false",
    },
    "checkpoints-crosscoder": TEXT | {"model.name": "gpt_neox", "model.others": "gpt_neox_early"},
    "gemma-2-2b": TEXT | {"model.name": "gemma2"},
    "gpt2-attention-z": IDS | {"model.name": "gpt2"},
    "gpt2-transcoders": IDS | {"model.name": "gpt2"},
    "othello": {"model.name": "othello", "dataset.documents": "300"},
    "pythia-160m-topk": TEXT | {"model.name": "gpt_neox"},
    "pythia-70m-suite": TEXT | {"model.name": "gpt_neox"},
    "tinystories-gated": TEXT | {"model.name": "gpt_neo", "model.revision": "null", "tokenize.tokenizer": "gpt_neo"},
}
# What makes any of them small; eight steps are fewer than some warm-ups.
SMALL = {
    "tokenize.context_size": "32",
    "tokenize.tokens": "2048",
    "tokenize.held_out_fraction": "0.2",
    "tokenize.held_out_tokens": "512",
    "tokenize.calibration_tokens": "256",
    "init.tokens": "128",
    "sae.expansion_factor": "null",
    "sae.d_sae": "192",
    "train.tokens": "1024",
    "train.batch_size": "128",
    "train.window_tokens": "512",
    "eval.tokens": "256",
}
ALSO = {"othello": {"tokenize.context_size": "59"}}


def overrides(values: dict[str, str]) -> list[str]:
    return [f"{column}={value}" for column, value in values.items()]


def small(name: str) -> dict[str, str]:
    """All columns of an example that are replaced to run it here."""
    return STAND_INS[name] | SMALL | ALSO.get(name, {})


def read_config(name: str) -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / name / "config.yaml").read_text())


def sources(name: str) -> tuple[Path, Path]:
    return EXAMPLES / name / "config.yaml", EXAMPLES / name / "sweep.tsv"


def plan(name: str, changes: dict[str, str]) -> Any:
    """The plan of an example with the columns of `changes` replaced, and how it would be worked on."""
    config, sweep = sources(name)
    return plan_of(config, sweep, overrides(changes), {"artifacts": "artifacts"})


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-ins of all models and texts, in which the examples share what they make."""
    folder = tmp_path_factory.mktemp("workshop")
    write_text(folder)
    write_model(folder)
    write_models(folder)
    write_token_ids(folder)
    write_chats(folder)
    return folder


@pytest.fixture
def inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: the workshop."""
    monkeypatch.chdir(workshop)
    return workshop


def write_models(folder: Path) -> None:
    """Write a folder for each model, with random weights; all but Othello-GPT have the miniature's tokenizer."""
    import torch
    import transformers as tf

    tokenizer = tf.AutoTokenizer.from_pretrained(folder / "model")
    vocab, positions = len(tokenizer), 1024
    narrow: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2}
    grouped: dict[str, Any] = narrow | {
        "intermediate_size": 32,
        "num_key_value_heads": 1,
        "max_position_embeddings": positions,
    }
    models: dict[str, tf.PreTrainedConfig] = {
        "gpt_neox": tf.GPTNeoXConfig(vocab_size=vocab, num_hidden_layers=12, intermediate_size=32, **narrow),
        "gpt_neox_early": tf.GPTNeoXConfig(vocab_size=vocab, num_hidden_layers=12, intermediate_size=32, **narrow),
        "gpt_neo": tf.GPTNeoConfig(
            vocab_size=vocab, hidden_size=16, num_layers=1, num_heads=2, attention_types=[[["global"], 1]]
        ),
        "gpt2": tf.GPT2Config(vocab_size=vocab, n_embd=16, n_layer=12, n_head=2, n_positions=positions),
        "gemma2": tf.Gemma2Config(vocab_size=vocab, num_hidden_layers=26, head_dim=8, **grouped),
        "qwen2": tf.Qwen2Config(vocab_size=vocab, num_hidden_layers=24, **grouped),
        "othello": tf.GPT2Config(vocab_size=61, n_embd=16, n_layer=8, n_head=2, n_positions=59),
    }
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}] {{ message.content }}{{ eos_token }}\n{% endfor %}"
    )
    for seed, (name, config) in enumerate(models.items()):
        torch.manual_seed(seed)
        config.initializer_range = 0.3
        tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        if name != "othello":
            tokenizer.save_pretrained(folder / name)


def write_token_ids(folder: Path) -> None:
    """Write ids.jsonl: the miniature's texts as lists of ids of its tokenizer."""
    import transformers as tf

    tokenizer = tf.AutoTokenizer.from_pretrained(folder / "model")
    texts = [path.read_text() for path in sorted((folder / "text").iterdir())]
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts]
    (folder / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_chats(folder: Path) -> None:
    """Write chats.jsonl: conversations of two messages, with words of the miniature's texts."""
    texts = [path.read_text().split() for path in sorted((folder / "text").iterdir())]
    rows = [
        {
            "messages": [
                {"role": "user", "content": " ".join(words[:30])},
                {"role": "assistant", "content": " ".join(words[30:])},
            ]
        }
        for words in texts
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@EVERY_EXAMPLE
def test_an_example_has_a_config_a_sweep_and_a_readme_with_commands_that_work(name: str):
    assert all(path.is_file() for path in sources(name))
    blocks = re.findall(r"^```\n(.*?)^```$", (EXAMPLES / name / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    own = [parser().parse_args(line[1:]) for line in lines if line[0] == "lmsae"]
    assert [command.name for command in own] == ["plan", "run"]
    for command in own:
        assert (command.config, command.sweep) == (sources(name)[0].relative_to(ROOT), None), "the sheet is beside it"
    assert ["snakemake", "--cores", "all", "--config", f"folder=config/examples/{name}"] in lines


def test_the_index_names_every_example_with_its_model_rows_and_tokens():
    rows = re.findall(
        r"^\| \[(.+?)\]\((.+?)\) \|.*?\| (\S+) \| (\d+) \| ([\d.]+)M \|$", INDEX.read_text(), re.MULTILINE
    )
    assert sorted(row[0] for row in rows) == NAMES
    for name, link, model, count, millions in rows:
        config, sweep = read_config(name), (EXAMPLES / name / "sweep.tsv").read_text().splitlines()
        assert link == f"{name}/README.md"
        assert model == config["model"]["name"]
        assert int(count) == sum(not line.startswith("#") for line in sweep) - 1
        assert round(float(millions) * 1e6) == config["train"]["tokens"]


@EVERY_EXAMPLE
def test_an_example_can_be_planned_with_nothing_but_its_names_replaced(name: str, inside: Path):
    made, runtime = plan(name, STAND_INS[name])
    assert str(runtime.results) == f"results/{name}"
    tokenized = {spec.config["packing"]["tokens"] for row in made.rows for spec in row.of("tokenize")}
    assert tokenized == {read_config(name)["tokenize"].get("tokens")}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_an_example_runs_end_to_end_with_a_small_model_and_text(name: str, inside: Path):
    config, sweep = sources(name)
    changes = small(name)
    sets = [word for override in overrides(changes) for word in ("--set", override)]
    flags = ["--results", f"results/{name}", "--artifacts", "artifacts", "--device", "cpu", "--threads", "1"]
    assert main(["run", "--config", str(config), "--sweep", str(sweep), *flags, *sets]) == 0
    for row in plan(name, changes)[0].rows:
        metrics = json.loads((inside / "results" / name / "rows" / row.name / "eval" / "metrics.json").read_text())
        assert math.isfinite(metrics["explained_variance"])
        assert metrics["l0"] > 0


def test_the_suite_trains_its_24_dictionaries_in_one_pass(inside: Path):
    planned, runtime = plan("pythia-70m-suite", STAND_INS["pythia-70m-suite"])
    assert [len(group) for group in planned.passes("train", runtime.together)] == [24]


def test_othello_reads_with_and_without_the_ends_of_games_from_one_store(inside: Path):
    planned, _ = plan("othello", STAND_INS["othello"])
    assert len(planned.specs("activations")) == 1
    ends = {spec.config["skip_first_positions"]: spec.config["skip_last_positions"] for spec in planned.specs("train")}
    assert ends == {5: 5, 0: 0}


def test_the_crosscoder_reads_the_same_hook_point_of_both_checkpoints(inside: Path):
    planned, _ = plan("checkpoints-crosscoder", STAND_INS["checkpoints-crosscoder"])
    stores = [spec.config for spec in planned.specs("activations")]
    assert [store["hook_point"] for store in stores] == ["blocks.3.hook_resid_post"] * 2
    assert [store["model"]["source"]["name"] for store in stores] == ["gpt_neox", "gpt_neox_early"]
    assert all(row.specs["train"].config["sites"] == {"reads": [0, 1], "writes": [0, 1]} for row in planned.rows)


def test_the_mixture_masks_what_the_template_writes_around_messages(inside: Path):
    """The template's brackets are in no text here, and in no message."""
    planned, runtime = plan("chat-mixture", small("chat-mixture"))
    planned.write_specs(Artifacts(runtime.artifacts))
    (tokenized,) = planned.specs("tokenize")
    run_stage("tokenize", [tokenized.reference], runtime)
    tokens = open_tokens(runtime.artifacts / tokenized.reference)
    vocabulary = json.loads((inside / "qwen2" / "tokenizer.json").read_text())["model"]["vocab"]
    written = np.isin(tokens.train[:], [vocabulary["["], vocabulary["]"]])
    assert written.any()
    assert not (written & tokens.usable("train")).any()


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")
def test_converted_othello_weights_compute_what_transformerlens_computes():
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 64, "d_head": 32, "n_heads": 2, "d_mlp": 48, "d_vocab": 61}
    peer = HookedTransformer(
        HookedTransformerConfig(**sizes, n_ctx=59, act_fn="gelu", normalization_type="LNPre", device="cpu")
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in peer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    games = torch.randint(1, 61, (4, 59), generator=generator)
    with torch.no_grad():
        computed: Any = peer.run_with_cache(games)
        model = convert_module().convert(peer.state_dict()).eval()
        hidden: list[torch.Tensor] = []
        model.transformer.h[1].mlp.c_proj.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
        expected, cache = computed
        logits = model(games)["logits"]
    torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(hidden[0], cache["blocks.1.mlp.hook_post"], atol=1e-4, rtol=1e-4)


def convert_module() -> Any:
    """config/examples/othello/convert.py, which is a program and no part of the package."""
    spec = importlib.util.spec_from_file_location("convert", EXAMPLES / "othello" / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
