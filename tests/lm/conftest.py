"""Tiny random models of every family, saved as folders the way users have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

VOCAB, CONTEXT = 61, 12
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
# Two key-value heads, and heads wider than hidden_size / num_attention_heads, as many real models have.
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 16}
OPT: dict[str, Any] = {name: size for name, size in SIZES.items() if name != "intermediate_size"} | {"ffn_dim": 48}
FALCON: dict[str, Any] = SIZES | {"ffn_hidden_size": 48, "bias": True, "eos_token_id": 0, "bos_token_id": 0}
FALCON.pop("intermediate_size")
VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CONFIGS: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "gpt2": lambda: tf.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neo": lambda: tf.GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        max_position_embeddings=64,
        attention_types=[[["global", "local", "global"], 1]],
    ),
    "gpt_neox_parallel": lambda: tf.GPTNeoXConfig(**SIZES),
    "gpt_neox_sequential": lambda: tf.GPTNeoXConfig(**SIZES, use_parallel_residual=False),
    "llama": lambda: tf.LlamaConfig(**SIZES, num_key_value_heads=2),
    "mistral": lambda: tf.MistralConfig(**GROUPED),
    "qwen2": lambda: tf.Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3": lambda: tf.Qwen3Config(**GROUPED),
    "gemma": lambda: tf.GemmaConfig(**GROUPED),
    "gemma2": lambda: tf.Gemma2Config(**GROUPED),
    "gemma3_text": lambda: tf.Gemma3TextConfig(**GROUPED),
    "phi": lambda: tf.PhiConfig(**SIZES),
    "phi3": lambda: tf.Phi3Config(**SIZES, num_key_value_heads=2, pad_token_id=0, eos_token_id=0),
    "olmo2": lambda: tf.Olmo2Config(**SIZES, num_key_value_heads=2, eos_token_id=0),
    "mixtral": lambda: tf.MixtralConfig(**GROUPED, num_local_experts=4),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, mlp_only_layers=[0]
    ),
    "gemma3": lambda: tf.Gemma3Config(
        text_config=tf.Gemma3TextConfig(**GROUPED), vision_config=VISION, mm_tokens_per_image=1
    ),
    "opt": lambda: tf.OPTConfig(**OPT),
    "opt_post_norm": lambda: tf.OPTConfig(**OPT, do_layer_norm_before=False),
    "bloom": lambda: tf.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4),
    "falcon": lambda: tf.FalconConfig(**FALCON),
    "falcon_two_norms": lambda: tf.FalconConfig(**FALCON, num_kv_heads=2, new_decoder_architecture=True),
    "falcon_sequential": lambda: tf.FalconConfig(**FALCON, alibi=True, parallel_attn=False, multi_query=False),
    "mamba": lambda: tf.MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, state_size=4),
}
NOT_BRIDGED = {
    "gemma3": "reads more than text",
    "opt_post_norm": "cannot run",
    "falcon_two_norms": "cannot run",
    "falcon_sequential": "otherwise than transformers does",
}
"""Models that the bridge of TransformerLens does not compute, or not as transformers does, and what lmsae says then."""
BRIDGED = [family for family in CONFIGS if family not in NOT_BRIDGED]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `family` runs once for each, and one that asks for `bridged` for those with a bridge."""
    for name, families in (("family", CONFIGS), ("bridged", BRIDGED)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, families)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family name -> a folder with a tiny model of it whose weights are random and far from tidy."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            generator = torch.Generator().manual_seed(0)
            model = tf.AutoModelForCausalLM.from_config(CONFIGS[family]())
            with torch.no_grad():
                for parameter in model.parameters():
                    # Initial norms are 1 and biases 0, which would hide a hook on the wrong side of a norm.
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    """Two contexts of random token ids."""
    return torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
