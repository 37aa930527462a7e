"""norm: activations -> the moments that training and evaluation scale and center by, from calibration contexts."""

from collections.abc import Sequence
from dataclasses import replace

from lmsae.artifacts.artifact import Spec
from lmsae.errors import HookPointError
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import EACH_ALIKE, Facts, Outlook
from lmsae.stages.footprint import Footprint, calibration_footprint
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Reading
from lmsae.stages.stage import Done, Job, Stage, make_each

LEAST_NORM = 1e-30
"""Float32 holds the inverse of a mean norm from here on."""


class Config(Reading):
    """Every usable calibration token counts once."""


def configs(row: ResolvedRow) -> list[Config]:
    """The moments of every hook point."""
    return [Config(**row.fields(Reading)) for _ in row.places.all]


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `norm.safetensors`, float64: mean_norm (), mean (width,), variance (width,) and max_norm (), the largest
    that a usable token may have."""
    del runtime
    return make_each(jobs, _make)


def _make(job: Job) -> Facts:
    """Raises HookPointError where activations are 0 everywhere."""
    import torch

    from lmsae.runtime.tensors import save_tensors
    from lmsae.stages.inputs.stored import calibration_activations, max_norm_of

    read = job.inputs["activations"], job.inputs["tokens"], job.config
    x = calibration_activations(*read).double()
    moments = {"mean_norm": x.norm(dim=1).mean(), "mean": x.mean(0), "variance": x.var(0, unbiased=False)}
    if moments["mean_norm"] < LEAST_NORM:
        hook_point = job.inputs["activations"].spec().config["hook_point"]
        raise HookPointError(
            f"{hook_point} is 0 at all {len(x):,} calibration tokens, so there is nothing to learn (a projection that "
            "begins at 0 and was never trained gives such activations): choose another hook point."
        )
    moments["max_norm"] = torch.tensor(max_norm_of(*read), dtype=torch.float64)
    save_tensors(moments, job.out / "norm.safetensors")
    return {"tokens": len(x)}


def _memory(specs: Sequence[Spec], outlook: Outlook) -> Footprint:
    """The memory of the widest of them: they are made one after the other."""
    return calibration_footprint(
        tokens=outlook.spec(specs[0].inputs["tokens"]).config["packing"]["calibration_tokens"],
        width=max(outlook.spec(spec.inputs["activations"]).config["width"] for spec in specs),
    )


STAGE = Stage(
    name="norm",
    version=2,
    help="activations -> their scale, mean and variance",
    config=Config,
    inputs={"activations": "activations", "tokens": "tokenize"},
    make=make,
    configs=configs,
    is_per_hook_point=True,
    effort=replace(EACH_ALIKE, memory=_memory, lessen="lower tokenize.calibration_tokens"),
)
