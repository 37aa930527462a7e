"""Sites: which stores a dictionary reads and writes, and in which order they stand side by side."""

from pathlib import Path

import pytest
import torch

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ShapeError
from lmsae.geometry.config import CLTConfig, TranscoderConfig, Widths
from lmsae.sparsity.config import TopKConfig
from lmsae.stages.inputs.stored import batch_of, stores_for
from lmsae.stages.sites import Sites, inputs_from, name_input
from lmsae.store.layout import Layout
from lmsae.store.writer import StoreWriter

PARTS = [torch.full((5, width), float(10 * number)) for number, width in enumerate((2, 3, 4))]


@pytest.mark.parametrize(
    ("reads", "writes", "x", "target"),
    [
        ((0,), (1,), [0] * 2, [10] * 3),
        ((2, 0), (1,), [20] * 4 + [0] * 2, [10] * 3),
        ((0, 1), (2, 1), [0] * 2 + [10] * 3, [20] * 4 + [10] * 3),
    ],
)
def test_what_is_read_and_what_is_written_stand_side_by_side_in_the_order_of_the_sites(
    reads: tuple[int, ...], writes: tuple[int, ...], x: list[float], target: list[float]
) -> None:
    batch = batch_of(PARTS, Sites(reads=reads, writes=writes))
    assert batch.x.tolist() == [x] * 5
    assert batch.target.tolist() == [target] * 5


def test_what_is_written_is_the_same_tensor_where_it_is_what_is_read() -> None:
    batch = batch_of(PARTS, Sites(reads=(0, 2), writes=(0, 2)))
    assert batch.target is batch.x
    assert batch_of(PARTS, Sites(reads=(0, 2), writes=(2, 0))).target is not batch.x


def test_whole_contexts_stand_side_by_side_in_the_last_dimension_too() -> None:
    parts = [part.expand(7, 5, -1) for part in PARTS]
    assert batch_of(parts, Sites(reads=(1, 2), writes=(0,))).x.shape == (7, 5, 7)


def test_inputs_are_numbered_from_the_second_on_and_come_in_the_order_of_their_numbers() -> None:
    assert [name_input("norm", number) for number in range(3)] == ["norm", "norm.1", "norm.2"]
    inputs = {"tokens": "t"} | {name_input(stage, n): f"{stage}{n}" for stage in ("norm", "init") for n in range(12)}
    backwards = dict(reversed(inputs.items()))
    assert inputs_from("norm", backwards) == [f"norm{n}" for n in range(12)]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Activations of width 2, 3 and 4, whose specs are told apart by the width alone."""
    artifacts = Artifacts(tmp_path / "artifacts")
    for width in (2, 3, 4):
        artifact = artifacts.add(Spec(stage="activations", version=1, config={"width": width}, inputs={}))
        with StoreWriter(artifact.path / "activations.zarr", Layout(3, 8, width, "float32")) as writer:
            writer.append(torch.zeros(3, 8, width))
        artifact.publish({})
    return artifacts


@pytest.mark.parametrize(
    ("sites", "wrong"),
    [
        (Sites(reads=(0,), writes=(1,)), None),
        (Sites(reads=(1,), writes=(0,)), "width 3, but the dictionary has 2 there"),
        (Sites(reads=(0,), writes=(2,)), "width 4, but the dictionary has 3 there"),
    ],
)
def test_a_store_whose_width_is_not_the_dictionarys_is_refused(
    artifacts: Artifacts, sites: Sites, wrong: str | None
) -> None:
    specs = [Spec(stage="activations", version=1, config={"width": width}, inputs={}) for width in (2, 3, 4)]
    inputs = {name_input("activations", number): artifacts[spec.reference] for number, spec in enumerate(specs)}
    config = DictionaryConfig(
        widths=Widths(reads=(2,), writes=(3,)), d_sae=8, geometry=TranscoderConfig(), act_fn=TopKConfig(k=2)
    )
    if wrong is None:
        assert [store.width for store in stores_for(config, sites, inputs)] == [2, 3, 4]
    else:
        with pytest.raises(ShapeError, match=wrong):
            stores_for(config, sites, inputs)


def test_every_place_of_a_dictionary_of_several_is_looked_at(artifacts: Artifacts) -> None:
    spec = Spec(stage="activations", version=1, config={"width": 2}, inputs={})
    wide = Spec(stage="activations", version=1, config={"width": 3}, inputs={})
    inputs = {"activations": artifacts[spec.reference], "activations.1": artifacts[wide.reference]}
    config = DictionaryConfig(
        widths=Widths(reads=(2, 2), writes=(2, 2)), d_sae=8, geometry=CLTConfig(), act_fn=TopKConfig(k=2)
    )
    with pytest.raises(ShapeError, match="width 3, but the dictionary has 2 there"):
        stores_for(config, Sites(reads=(0, 1), writes=(0, 0)), inputs)
