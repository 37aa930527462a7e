"""FLOPs, against products counted by hand and by torch's own counter."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import (
    GEOMETRIES,
    CLTConfig,
    CrosscoderConfig,
    GeometryConfig,
    LorsaConfig,
    MOLTConfig,
    SAEConfig,
    SkipTranscoderConfig,
    TranscoderConfig,
    Widths,
)
from lmsae.lm.features import MODEL_TYPE
from lmsae.lm.resolving import BUILTIN, STDLIB
from lmsae.sparsity.config import ActFnConfig, LayerTopKConfig, MatchingPursuitConfig, ReLUConfig, TopKConfig
from lmsae.stages.flops import dictionary_flops, forward_flops, model_flops

D, N, T = 8, 32, 16


def dictionary(
    geometry: GeometryConfig, act_fn: ActFnConfig | None = None, reads: tuple[int, ...] = (D,)
) -> DictionaryConfig:
    return DictionaryConfig(
        widths=Widths(reads=reads, writes=reads),
        d_sae=N,
        geometry=geometry,
        act_fn=act_fn or ReLUConfig(),
        normalize_activations="none",
    )


DENSE = [
    dictionary(SAEConfig(apply_b_dec_to_input=False)),
    dictionary(SAEConfig(apply_b_dec_to_input=False, glu_encoder=True)),
    dictionary(TranscoderConfig()),
    dictionary(SkipTranscoderConfig()),
    dictionary(CrosscoderConfig(), reads=(D, D)),
    dictionary(CLTConfig(), reads=(D, D, D)),
    dictionary(MOLTConfig(molt_ranks=("4x1", "2x3"))),
]


@pytest.mark.parametrize("config", DENSE, ids=lambda config: config.geometry.kind)
def test_a_dense_step_takes_the_products_that_torch_counts(config: DictionaryConfig) -> None:
    made, x = Dictionary(config).train(), torch.randn(T, config.d_in)
    with torch.no_grad():
        for weights in made.parameters():
            weights.copy_(torch.rand_like(weights))
    target = x.clone() if config.geometry.kind != "sae" else x
    with FlopCounterMode(display=False) as counter:
        forward = made.training_pass(x, target)
        after_forward = counter.get_total_flops()
        (forward.reconstruction - target).pow(2).sum().backward()
    counted = dictionary_flops(config, T)
    assert after_forward == T * counted.forward
    if config.geometry.kind != "molt":  # torch forms outer products where a few sums would do
        assert counter.get_total_flops() == T * counted.step


def test_attention_of_a_lorsa_is_causal() -> None:
    plain = 2 * (D * N + N * D)
    heads, width = 2, 4
    patterns = heads * width * (2 * D + T / 2)
    config = dictionary(LorsaConfig(lorsa_qk_heads=heads, lorsa_d_qk=width))
    assert dictionary_flops(config, T).forward == plain + 2 * (N * T / 2 + patterns)


def test_latents_without_codes_cost_only_their_encoding() -> None:
    quarter = dictionary_flops(dictionary(SAEConfig(), TopKConfig(k=N // 4)), T)
    assert quarter.forward == 2 * (D * N + D * N / 4)
    assert quarter.step == 2 * (D * N + D * N / 4 * 4)
    whole = dictionary_flops(dictionary(SAEConfig(), TopKConfig(k=N)), T)
    assert whole == dictionary_flops(dictionary(SAEConfig()), T)


def test_of_k_over_all_layers_each_has_its_share() -> None:
    over_all = dictionary(CLTConfig(), LayerTopKConfig(k=6), reads=(D, D, D))
    in_each = dictionary(CLTConfig(), TopKConfig(k=2), reads=(D, D, D))
    assert dictionary_flops(over_all, T) == dictionary_flops(in_each, T)


def test_matching_pursuit_encodes_as_often_as_it_selects() -> None:
    config = dictionary(SAEConfig(tied_encoder=True), MatchingPursuitConfig(k=4))
    assert dictionary_flops(config, T).forward == 2 * (4 * D * N + D * 4)


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_every_geometry_has_a_formula_and_its_work_grows_with_its_latents(kind: str) -> None:
    geometry, reads = GEOMETRIES[kind](), (80,) if GEOMETRIES[kind].one_each else (80, 80)
    few, many = (geometry.products(Widths(reads=reads, writes=reads), n, T) for n in (64, 128))
    assert many.encode == pytest.approx(2 * few.encode)
    assert many.decode == pytest.approx(2 * few.decode, rel=0.05)
    assert many.apart == few.apart


def stdlib() -> dict[str, int]:
    return json.loads((BUILTIN[STDLIB] / "config.json").read_text())


def test_a_model_takes_the_products_that_torch_counts(pristine: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pristine / "model", attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(3, T, dtype=torch.int64))
    config = json.loads((pristine / "model/config.json").read_text())
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    # Eager attention computes the products of each token with later ones too, and masks them.
    masked = 2 * T * layers * width
    assert counter.get_total_flops() == 3 * T * ((model_flops(config, T) or 0) + masked)


def test_reading_stops_after_the_last_hook_point() -> None:
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
    by_layer = [model_flops(stdlib(), 256, name) or 0 for name in names]
    assert by_layer == pytest.approx([by_layer[0] * n for n in (1, 2, 3, 4)])
    assert forward_flops(stdlib(), 256, [names[2], names[0]]) == by_layer[2]
    assert by_layer[3] < (model_flops(stdlib(), 256) or 0)
    assert model_flops(stdlib(), 256, "blocks.0.hook_resid_pre") == 0


def test_a_model_of_known_features_has_no_formula() -> None:
    assert model_flops({"model_type": MODEL_TYPE}, 256, "blocks.0.hook_resid_pre") is None
