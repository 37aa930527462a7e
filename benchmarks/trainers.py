"""Trainers of lmsae and of its peers with one interface, for benchmarks that run them on the same activations.

dictionary_learning and sparsify are optional: `pip install --no-deps dictionary-learning nnsight eai-sparsify` into the
environment of lmsae, and natsort, which one of them imports.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.initialization.config import InitConfig
from lmsae.initialization.initialize import initialize
from lmsae.planning.resolver import dictionary_of
from lmsae.training.batch import Batch
from lmsae.training.config import TrainConfig
from lmsae.training.run import Run

PREFIXES = (0.25, 0.5, 1.0)
LONG = 100
"""The steps of a run, as a multiple of the steps measured: a long run records curves at one step in dozens, a short run
at all."""


@dataclass(frozen=True)
class Schedule:
    """The course that all trainers follow, in steps: a linear rise of the learning rate, its linear fall to 0 at the
    end, and a linear rise of sparsity penalties."""

    lr_warm_up: int
    lr_cool_down: int
    sparsity_warm_up: int


@dataclass(frozen=True)
class Setting:
    """The settings that all trainers share. Coefficients and jumprelu's threshold at the start are in lmsae's units:
    activations of mean norm sqrt(width). Without a schedule, each trainer has its own short warm-up and then a
    constant learning rate."""

    architecture: str
    width: int
    d_sae: int
    batch: int
    tokens: int
    lr: float
    k: int = 32
    l1: float = 3.0
    l0: float = 2.0
    threshold: float = 1.0
    device: str = "cpu"
    seed: int = 0
    dead_tokens: int | None = None
    schedule: Schedule | None = None

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    @property
    def l1_of_gate(self) -> float:
        """The same coefficient is less sparse on a gate."""
        return 2 * self.l1

    @property
    def dead_after(self) -> int:
        """The tokens after which a latent without firing is dead."""
        return self.dead_tokens or 1000 * self.batch


@dataclass(frozen=True)
class Trainer:
    """One library learning one dictionary from activations of mean norm sqrt(width)."""

    name: str
    step: Callable[[Tensor], None]
    encode: Callable[[Tensor], Tensor]
    reconstruct: Callable[[Tensor], Tensor]
    save: Callable[[Path], None] | None = None
    """Writes what was learned into a folder, in the library's own format."""


COLUMNS: Mapping[str, Callable[[Setting], dict[str, Any]]] = {
    "topk": lambda setting: {"k": setting.k},
    "batchtopk": lambda setting: {"k": setting.k},
    "matryoshka": lambda setting: {"k": setting.k, "matryoshka_prefixes": PREFIXES},
    "standard": lambda setting: {"l1_coefficient": setting.l1},
    "gated": lambda setting: {"l1_coefficient": setting.l1_of_gate},
    "jumprelu": lambda setting: {"l0_coefficient": setting.l0, "jumprelu_init_threshold": setting.threshold},
}


def lmsae_run(setting: Setting, calibration: Tensor, precision: str = "float32", long: int = 1) -> Run:
    """A Run of lmsae, from a grid-searched start: `long` times the setting's steps, at the schedules of those alone."""
    columns = {"architecture": setting.architecture, "d_sae": setting.d_sae, "normalize_activations": "none"}
    # Activations are scaled already, for all.
    columns |= COLUMNS[setting.architecture](setting)
    parts, objective = dictionary_of(columns, (setting.width,), (setting.width,))
    dictionary = Dictionary(parts).to(setting.device)
    init = InitConfig(seed=setting.seed)
    initialize(dictionary, calibration, calibration, None, init, unit_norm_decoder=objective.unit_norm_decoder)
    steps, fields = setting.steps, TrainConfig.model_fields
    schedule = setting.schedule or Schedule(
        lr_warm_up=round(steps * fields["lr_warm_up_steps"].default),
        lr_cool_down=0,
        sparsity_warm_up=round(steps * fields["sparsity_warm_up_steps"].default),
    )
    config = TrainConfig.model_validate(
        {
            "tokens": long * setting.tokens,
            "lr_warm_up_steps": schedule.lr_warm_up,
            "sparsity_warm_up_steps": schedule.sparsity_warm_up,
            "batch_size": setting.batch,
            "lr": setting.lr,
            "lr_cool_down_steps": schedule.lr_cool_down,
            "dead_threshold": setting.dead_after,
            "threshold_lr_factor": 5,
            "precision": precision,
        }
    )
    return Run(dictionary, objective, config, setting.architecture)


def lmsae(setting: Setting, calibration: Tensor, precision: str = "float32") -> Trainer:
    """The trainer of lmsae, with float32 or bfloat16 products."""
    run = lmsae_run(setting, calibration, precision, 1 if setting.schedule else LONG)
    dictionary = run.dictionary
    return Trainer(
        f"lmsae {precision}",
        lambda x: run.step(Batch(x, x)),
        dictionary.encode,
        lambda x: dictionary.eval()(x),
        dictionary.save,
    )


def saelens(setting: Setting, autocast: bool = False) -> Trainer:
    """SAELens' own trainer of the same architecture."""
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    schedule = setting.schedule or Schedule(0, 0, 0)
    penalty, l0_penalty = (
        {"l1_warm_up_steps": schedule.sparsity_warm_up},
        {"l0_warm_up_steps": schedule.sparsity_warm_up},
    )
    prefix, options = {
        "topk": ("TopK", {"k": setting.k}),
        "batchtopk": ("BatchTopK", {"k": setting.k}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": setting.k, "matryoshka_widths": [int(share * setting.d_sae) for share in PREFIXES]},
        ),
        "standard": ("Standard", {"l1_coefficient": setting.l1, **penalty}),
        "gated": ("Gated", {"l1_coefficient": setting.l1_of_gate, **penalty}),
        # A tenth of the threshold, for its encoder starts with norm 0.1.
        "jumprelu": (
            "JumpReLU",
            {"l0_coefficient": setting.l0, "jumprelu_init_threshold": setting.threshold / 10, **l0_penalty},
        ),
    }[setting.architecture]
    torch.manual_seed(setting.seed)
    config = getattr(sae_lens, f"{prefix}TrainingSAEConfig")(
        d_in=setting.width, d_sae=setting.d_sae, device=setting.device, **options
    )
    sae = getattr(sae_lens, f"{prefix}TrainingSAE")(config)
    training = SAETrainerConfig(
        total_training_samples=setting.tokens,
        train_batch_size_samples=setting.batch,
        lr=setting.lr,
        lr_end=setting.lr,
        lr_warm_up_steps=schedule.lr_warm_up,
        lr_decay_steps=schedule.lr_cool_down,
        dead_feature_window=setting.dead_after // setting.batch,
        autocast=autocast,
        device=setting.device,
    )
    trainer = SAETrainer(training, sae, data_provider=iter(()))

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    def save(folder: Path) -> None:
        sae.save_inference_model(folder)

    return Trainer("SAELens autocast" if autocast else "SAELens", step, sae.encode, sae, save)


def dictionary_learning_trainer(setting: Setting) -> Any:
    """dictionary_learning's own trainer object; its activations have a mean squared norm of 1."""
    schedule = setting.schedule or Schedule(0, 0, 0)
    penalized = {"sparsity_warmup_steps": schedule.sparsity_warm_up}
    # Its thresholds settle over thousands of steps by default, and there may be hundreds.
    settles = {"threshold_start_step": setting.steps // 4, "threshold_beta": 0.98} if setting.schedule else {}
    module, kind, options = {
        "topk": ("top_k", "TopKTrainer", {"k": setting.k, **settles}),
        "batchtopk": ("batch_top_k", "BatchTopKTrainer", {"k": setting.k, **settles}),
        "matryoshka": (
            "matryoshka_batch_top_k",
            "MatryoshkaBatchTopKTrainer",
            {"k": setting.k, "group_fractions": [0.25, 0.25, 0.5], **settles},
        ),
        "standard": (
            "standard",
            "StandardTrainer",
            {"l1_penalty": setting.l1 / setting.width**0.5, **penalized},
        ),
        "gated": (
            "gdm",
            "GatedSAETrainer",
            {"l1_penalty": setting.l1_of_gate / setting.width**0.5, **penalized},
        ),
        "jumprelu": ("jumprelu", "JumpReluTrainer", {"target_l0": float(setting.k), **penalized}),
    }[setting.architecture]
    trainer = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), kind)
    made = trainer(
        steps=setting.steps + 2,
        activation_dim=setting.width,
        dict_size=setting.d_sae,
        layer=0,
        lm_name="",
        lr=setting.lr,
        warmup_steps=schedule.lr_warm_up,
        decay_start=setting.steps - schedule.lr_cool_down if schedule.lr_cool_down else None,
        device=setting.device,
        seed=setting.seed,
        **options,
    )
    if setting.dead_tokens:
        made.dead_feature_threshold = setting.dead_tokens
    return made


def dictionary_learning(setting: Setting) -> Trainer:
    """dictionary_learning's trainer of the same architecture."""
    trainer, scale = dictionary_learning_trainer(setting), setting.width**-0.5
    steps_done = 0

    def step(x: Tensor) -> None:
        nonlocal steps_done
        trainer.update(steps_done, x * scale)
        steps_done += 1

    dictionary = trainer.ae

    def save(folder: Path) -> None:
        """Write what its own training script writes, for activations of mean norm sqrt(width)."""
        dictionary.scale_biases(1 / scale)
        torch.save(dictionary.state_dict(), folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": type(dictionary).__name__}}))

    return Trainer(
        "dictionary_learning",
        step,
        lambda x: dictionary.encode(x * scale),
        lambda x: dictionary(x * scale) / scale,
        save,
    )


def sparsify(setting: Setting) -> Trainer:
    """sparsify's sparse coder with its own losses and fused kernels, as its trainer drives it with Adam.

    Its forward pass is under bfloat16 autocast on a GPU, and other float32 products are tfloat32 there.
    """
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(setting.width, SparseCoderConfig(num_latents=setting.d_sae, k=setting.k), device=setting.device)
    adam = torch.optim.Adam(coder.parameters(), lr=setting.lr, fused=True)
    since_fired = torch.zeros(setting.d_sae, dtype=torch.int64, device=setting.device)

    def step(x: Tensor) -> None:
        allowed = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=since_fired >= setting.dead_after)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        since_fired.add_(len(x))
        since_fired[out.latent_indices.flatten()] = 0
        torch.set_float32_matmul_precision(allowed)

    def encode(x: Tensor) -> Tensor:
        kept = coder.encode(x)
        return x.new_zeros(len(x), setting.d_sae).scatter(1, kept[1].long(), kept[0].to(x.dtype))

    return Trainer("sparsify", step, encode, lambda x: coder(x).sae_out.float())


def explained_variance(trainer: Trainer, x: Tensor) -> float:
    """1 - FVU, pooled over x (tokens, width)."""
    with torch.no_grad():
        error = (trainer.reconstruct(x) - x).pow(2).sum()
    return float(1 - error / (x - x.mean(0)).pow(2).sum())


def l0_and_dead(trainer: Trainer, x: Tensor) -> tuple[float, float]:
    """The mean number of active latents of a token, and the share of latents that fire on no token of x."""
    with torch.no_grad():
        fires = trainer.encode(x) != 0
    return float(fires.sum(1).float().mean()), float(fires.any(0).logical_not().float().mean())
