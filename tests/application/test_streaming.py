"""Stored activations in Python are those of the store, and the stream is the one that training reads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.streaming import activations
from lmsae.errors import MissingArtifact
from lmsae.stages.inputs.usable import Usable
from lmsae.store.batches import ShuffledBatches
from lmsae.store.reader import StoreReader
from lmsae.store.stores import Stores
from tests.miniature import HERE, THERE, make_until, write_config, write_sweep


def test_they_are_those_of_the_model_in_the_order_of_tokens(top: LoadedDictionary) -> None:
    stored = activations("top")
    assert (stored.hook_points, stored.widths) == ((HERE,), {HERE: 16})
    ids = stored.ids(3, 5)
    read = top.model.read(ids, [HERE])[HERE]
    torch.testing.assert_close(stored.read(3, 5)[HERE], read, atol=1e-2, rtol=1e-3)  # float16 in the store
    assert stored.usable(3, 5).tolist() == top.counted(ids).tolist()


def test_a_stream_is_a_function_of_its_seed_and_its_step(here: Path) -> None:
    stored = activations("top")
    store = StoreReader(next(iter(stored.readers)).path)
    first = stored.calibration_contexts
    how: dict[str, Any] = {"batch_size": 64, "seed": 5, "first": first}
    wanted = ShuffledBatches(
        Stores([store]), Usable(stored.tokens, [store.path], stored.reading)[0 : len(stored)], **how
    ).batches(2, 4)
    found = list(stored.batches(64, seed=5, start_step=2, steps=2))
    assert len(found) == 2
    for batch, (x,) in zip(found, wanted, strict=True):
        assert torch.equal(batch[HERE], x)
    assert not torch.equal(next(iter(stored.batches(64, seed=6, start_step=2, steps=1)))[HERE], found[0][HERE])


def test_an_epoch_has_every_usable_token_once(here: Path) -> None:
    stored = activations("top")
    seen = torch.cat([batch[HERE] for batch in stored.batches(1)])
    rest = stored.read(stored.calibration_contexts, len(stored))[HERE]
    usable = torch.from_numpy(stored.usable(stored.calibration_contexts, len(stored)))
    assert torch.equal(seen.sum(1).sort().values, rest[usable].sum(1).sort().values)


@pytest.mark.slow
@pytest.mark.xdist_group("geometries")
def test_a_row_of_several_hook_points_gives_them_at_the_same_tokens(
    geometries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(geometries)
    stored = activations("crosscoder")
    assert stored.hook_points == (HERE, THERE)
    (batch,) = stored.batches(64, steps=1, whole_contexts=True)
    assert batch[HERE].shape == batch[THERE].shape == (2, 32, 16)
    both = torch.cat([stored.read(0, len(stored))[name] for name in stored.hook_points], dim=-1)
    assert (both == torch.cat([batch[HERE], batch[THERE]], dim=-1)[0]).all(-1).all(-1).any()
    assert activations("of-both").hook_points == (HERE, f"{HERE}@1")


def test_a_key_of_activations_or_of_a_dictionary_names_them_too(top: LoadedDictionary) -> None:
    by_row = activations("top").read(0, 1)[HERE]
    for stage in ("activations", "train"):
        assert torch.equal(activations(top.artifacts[stage].name).read(0, 1)[HERE], by_row)
    with pytest.raises(MissingArtifact, match="was not made from activations"):
        activations(top.artifacts["tokenize"].name)
    with pytest.raises(MissingArtifact, match="'tpo'"):
        activations("tpo")


def test_live_activations_are_not_there(fresh: Path) -> None:
    write_config(fresh, activations={"source": "live"})
    write_sweep(fresh, [{"name": "live", "sae.hook_point": HERE, "sae.architecture": "topk", "sae.k": "4"}])
    make_until("activations")
    with pytest.raises(MissingArtifact, match=r"activations\.source is live"):
        activations("live")
