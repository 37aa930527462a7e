"""norm: activations -> the moments that training and evaluation scale and center by, from calibration contexts."""

from collections.abc import Sequence

from lmsae.runtime.runtime import Runtime
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Reading
from lmsae.stages.stage import Done, Job, Stage


class Config(Reading):
    """Every usable calibration token counts once."""


def configs(row: ResolvedRow) -> list[Config]:
    """The moments of every hook point."""
    return [Config(**row.fields(Reading)) for _ in row.places.all]


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `norm.safetensors`, float64: mean_norm (), mean (width,), variance (width,) and max_norm (), the largest
    that a usable token may have."""
    import torch

    from lmsae.runtime.tensors import save_tensors
    from lmsae.stages.inputs.stored import calibration_activations, max_norm_of

    del runtime
    for job in jobs:
        read = job.inputs["activations"], job.inputs["tokens"], job.config
        x = calibration_activations(*read).double()
        moments = {"mean_norm": x.norm(dim=1).mean(), "mean": x.mean(0), "variance": x.var(0, unbiased=False)}
        moments["max_norm"] = torch.tensor(max_norm_of(*read), dtype=torch.float64)
        save_tensors(moments, job.out / "norm.safetensors")
        yield job, {"tokens": len(x)}


STAGE = Stage(
    name="norm",
    version=2,
    help="activations -> their scale, mean and variance",
    config=Config,
    inputs={"activations": "activations", "tokens": "tokenize"},
    make=make,
    configs=configs,
    is_per_hook_point=True,
)
