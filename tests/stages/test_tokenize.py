"""The tokenize stage over what a sheet can name: mixtures, chats, and ids for a model without a tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest

from lmsae.errors import SourceError
from lmsae.lm import resolve as resolve_model
from lmsae.runtime.runtime import Runtime
from lmsae.stages import tokenize
from lmsae.stages.stage import Job
from lmsae.text.dataset import DatasetConfig
from lmsae.text.packing import TokenizeConfig
from lmsae.text.pinning import resolve
from lmsae.text.tokens import TokenSet, open_tokens
from tests.miniature import write_model, write_text

OTHELLO = TokenizeConfig(context_size=59, prepend_bos=False, packing="document", calibration_tokens=590)


def made(folder: Path, model: str, packing: TokenizeConfig, **dataset: object) -> tuple[TokenSet, dict]:
    """The tokens of a stage that ran, and its counts."""
    folder.mkdir()
    text = resolve(DatasetConfig.model_validate(dataset))
    config = tokenize.Config(dataset=text, tokenizer=resolve_model(model), packing=packing)
    # What a later process reads from the spec must be the same config.
    assert tokenize.Config.model_validate(json.loads(config.model_dump_json())) == config
    job = Job("tokenize/0", config, {}, folder)
    for _ in tokenize.make([job], Runtime.model_validate({"device": "cpu"})):
        pass
    return open_tokens(folder), json.loads((folder / "counts.json").read_text())


@pytest.fixture
def gamer(tmp_path: Path) -> str:
    """A model without tokenizer, of which this stage reads nothing but the size of its vocabulary."""
    (tmp_path / "gamer").mkdir()
    config = {"model_type": "gpt2", "vocab_size": 61, "n_layer": 1, "n_embd": 8, "n_head": 1, "n_positions": 59}
    (tmp_path / "gamer/config.json").write_text(json.dumps(config))
    return str(tmp_path / "gamer")


def test_games_are_tokens_of_a_model_without_a_tokenizer(tmp_path: Path, gamer: str) -> None:
    found, counts = made(tmp_path / "out", gamer, OTHELLO, name="builtin:othello", documents=300)
    assert (found.d_vocab, found.context_size, found.special_token_ids) == (61, 59, ())
    assert counts["documents"] + counts["left_out"] == 300
    assert counts["train_contexts"] + counts["held_out_contexts"] == counts["documents"] > 290
    assert found.train[:].min() >= 1
    assert all(len(set(game)) == 59 for game in found.train[:].tolist())
    assert counts["train_usable"] == counts["train_tokens"] == 59 * (counts["train_contexts"] - 10)
    assert counts["train_usable_by_position"] == [counts["train_contexts"] - 10] * 59


def test_text_needs_a_tokenizer(tmp_path: Path, gamer: str) -> None:
    with pytest.raises(SourceError, match=r"gamer has no tokenizer.*tokenize\.tokenizer"):
        made(tmp_path / "out", gamer, OTHELLO, name="builtin:python-stdlib", documents=5)


def test_a_mixture_of_text_and_ids_is_counted_by_source_and_position(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_text(tmp_path)
    packing = TokenizeConfig(context_size=32, calibration_tokens=320, held_out_fraction=0.2)
    name = f"0.75*{tmp_path}/text 0.25*builtin:othello?documents=2000"
    found, counts = made(tmp_path / "out", str(tmp_path / "model"), packing, name=name)
    shares = {Path(part["name"]).name: part["train_contexts"] / counts["train_contexts"] for part in counts["sources"]}
    assert shares["text"] == pytest.approx(0.75, abs=0.01)
    assert shares["builtin:othello"] == pytest.approx(0.25, abs=0.01)
    usable = found.usable("train")[found.calibration_contexts :]
    assert counts["train_usable_by_position"] == np.sum(usable, axis=0).tolist()
    assert counts["train_usable"] == usable.sum() < counts["train_tokens"]
