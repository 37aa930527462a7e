"""Known features: what a dictionary that has them all is told, whatever its units and geometry."""

import math

import pytest
import torch

from lmsae.dictionary.config import DictionaryConfig, Normalization
from lmsae.dictionary.dictionary import Dictionary
from lmsae.evaluation.hooked import HookPoint
from lmsae.evaluation.known import KnownFeatures, known_features
from lmsae.geometry.config import MOLTConfig, SAEConfig, Widths
from lmsae.lm import load, resolve
from lmsae.lm.synthetic import SyntheticModel
from lmsae.sparsity.config import TopKConfig

WIDTH, FEATURES, SITE = 16, 24, "blocks.0.hook_resid_pre"


@pytest.fixture(scope="module")
def truth() -> KnownFeatures:
    named = resolve(f"builtin:features?features={FEATURES}&width={WIDTH}")
    model = load(named, backend="huggingface", dtype="float32", device="cpu")
    assert isinstance(model, SyntheticModel)
    known = known_features([model], [HookPoint(0, SITE)], [HookPoint(0, SITE)])
    assert known is not None
    ids = torch.randint(0, model.d_vocab, (8, 32), generator=torch.Generator().manual_seed(0))
    usable = torch.ones(ids.shape, dtype=torch.bool)
    known.update(ids, usable, known.model.amounts(ids)[usable][:, known.there])
    return known


def dictionary(geometry: SAEConfig | MOLTConfig, units: Normalization, latents: int) -> Dictionary:
    config = DictionaryConfig(
        widths=Widths(reads=(WIDTH,), writes=(WIDTH,)),
        d_sae=latents,
        geometry=geometry,
        act_fn=TopKConfig(k=3),
        normalize_activations=units,
    )
    made = Dictionary(config).eval().requires_grad_(False)
    for weight in made.geometry.parameters():
        weight.normal_(generator=torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("units", ["none", "dataset", "token", "layer_norm"])
def test_a_decoder_of_the_true_directions_has_a_cosine_of_one_in_any_units(
    units: Normalization, truth: KnownFeatures
) -> None:
    found = dictionary(SAEConfig(), units, len(truth.written))
    found.geometry.get_parameter("W_dec").copy_(truth.written)
    assert truth.metrics(found)["recovery_cosine"] == pytest.approx(1, abs=1e-4)


def test_a_molt_has_no_directions_to_compare(truth: KnownFeatures) -> None:
    found = dictionary(MOLTConfig(molt_ranks=("1x1",)), "dataset", len(truth.written))
    metrics = truth.metrics(found)
    assert math.isnan(metrics["recovery_cosine"])
    assert metrics["recovery_correlation"] == pytest.approx(1)
