"""norm: activations -> the moments that training and evaluation scale and centre by, from held-aside contexts."""

from collections.abc import Sequence

from lmsae.runtime import Runtime
from lmsae.stages.sites import Reading
from lmsae.stages.stage import Done, Job, Stage


class Config(Reading):
    """Every usable held-aside token counts once."""


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `norm.safetensors`: mean_norm (), mean (width,), variance (width,), float64, and the token count."""
    from safetensors.torch import save_file

    from lmsae.stages.reading import aside_activations

    del runtime
    for job in jobs:
        x = aside_activations(job.inputs["activations"], job.inputs["tokens"], job.config).double()
        moments = {"mean_norm": x.norm(dim=1).mean(), "mean": x.mean(0), "variance": x.var(0, unbiased=False)}
        save_file(moments, job.out / "norm.safetensors")
        yield job, {"tokens": len(x)}


STAGE = Stage("norm", 1, Config, {"activations": "activations", "tokens": "tokenize"}, make)
