"""What each latent means, by lmsae and by SAEDashboard: the same tokens, activations and dictionary, in turn.

    pip install --target SITE --no-deps sae-dashboard==0.8.0 dataclasses-json==0.6.7 marshmallow==3.26.1 \
        typing-inspect mypy-extensions eindex-callum decode-clt==0.0.1 einops
    python benchmarks/features_beside.py SITE > benchmarks/results/WHEN-WHERE-features-beside.md

SAEDashboard pins older libraries, so it goes into a folder of its own, SITE, before the others on the path. It reads
its activations from a model: here one of a single layer, at whose entrance they are an embedding, so that the model
takes next to no time. lmsae reads the same activations from a store. Both describe every latent: SAEDashboard by its
defaults (`SaeVisRunner`, 256 latents at a time), lmsae as the stage `features` does by its own. The dictionaries have
the same weights. SAEDashboard reads and encodes all tokens again for each batch of latents, so the ratio is that of the
sizes asked for and no other.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from features import describe_all, make_dictionary, warm_up

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interpretation.config import Shown
from lmsae.runtime.memory import reuse_freed_memory
from lmsae.store.layout import Layout
from lmsae.store.reader import StoreReader
from lmsae.store.writer import StoreWriter

HOOK_POINT = "blocks.0.hook_resid_pre"


def make_model(width: int, vocabulary: int, context_size: int) -> Any:
    """A model of one layer with random weights, as SAEDashboard takes it."""
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig

    torch.manual_seed(0)
    config = HookedTransformerConfig(
        n_layers=1,
        d_model=width,
        n_ctx=context_size,
        d_head=width // 8,
        n_heads=8,
        d_mlp=width,
        d_vocab=vocabulary,
        act_fn="relu",
        device="cpu",
    )
    model = HookedSAETransformer(config)
    with torch.no_grad():
        model.W_E.normal_()
        model.W_pos.normal_(std=0.5)
    return model.eval()


def make_sae(dictionary: Dictionary, k: int) -> Any:
    """The same dictionary as SAELens has it."""
    from sae_lens import TopKSAE, TopKSAEConfig

    weights = dictionary.geometry.state_dict()
    # It folds the norms of decoder rows into the codes. Here all are 1.
    sizes = {"d_in": dictionary.config.d_in, "d_sae": dictionary.config.d_sae, "k": k}
    config = TopKSAEConfig(**sizes, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=True)
    sae = TopKSAE(config)
    sae.load_state_dict({name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    return sae.eval()


def run_dashboard(model: Any, dictionary: Dictionary, k: int, tokens: torch.Tensor, cache: Path) -> None:
    """Describe every latent with SAEDashboard."""
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    wanted = range(dictionary.config.d_sae)
    config = SaeVisConfig(hook_point=HOOK_POINT, features=wanted, cache_dir=cache)
    SaeVisRunner(config).run(encoder=make_sae(dictionary, k), model=model, tokens=tokens)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="the folder that SAEDashboard is installed in")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--context-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.site))
    reuse_freed_memory()
    contexts, size = arguments.tokens // arguments.context_size, arguments.context_size
    model = make_model(arguments.width, arguments.vocabulary, size)
    dictionary = make_dictionary(arguments.width, arguments.latents, arguments.k)
    ids = (np.random.default_rng(0).zipf(1.3, (contexts, size)) % arguments.vocabulary).astype(np.uint16)
    tokens = torch.from_numpy(ids.astype("int64"))
    rows = model.W_U.detach().T.contiguous()
    times = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        layout = Layout(contexts, size, arguments.width, "float32")
        with StoreWriter(out / "store.zarr", layout) as writer, torch.inference_mode():
            for some in tokens.split(64):
                writer.append(model.W_E[some] + model.W_pos[:size])
        reader = StoreReader(out / "store.zarr")
        warm_up(dictionary, rows, out)
        for number in range(arguments.rounds):
            ours = seconds(lambda: describe_all(reader, dictionary, ids, rows, Shown(), out))
            cache = out / f"cache-{number}"
            theirs = seconds(lambda cache=cache: run_dashboard(model, dictionary, arguments.k, tokens, cache))
            times.append((ours, theirs))
    print(f"`python benchmarks/features_beside.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; ", end="")
    print(f"{contexts * size:,} tokens, {arguments.latents:,} latents, d = {arguments.width}, k = {arguments.k}, ")
    print(f"vocabulary {arguments.vocabulary:,}, {arguments.rounds} rounds.\n")
    print("| | lowest | median | highest |\n|---|---|---|---|")
    for name, values in (
        ("lmsae, s", [ours for ours, _ in times]),
        ("SAEDashboard 0.8.0, s", [theirs for _, theirs in times]),
        ("ratio", [theirs / ours for ours, theirs in times]),
    ):
        found = min(values), statistics.median(values), max(values)
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in found) + " |")


if __name__ == "__main__":
    main()
