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
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `family` runs once for each."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", CONFIGS)


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
