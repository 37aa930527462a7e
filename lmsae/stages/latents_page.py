"""page: what each latent means -> a page that opens from disk.

It is a stage of its own so that a new design of the page computes nothing else anew.
"""

from collections.abc import Sequence

from lmsae.config import Frozen
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import Facts
from lmsae.stages.interpret import FeaturesSection
from lmsae.stages.row import ResolvedRow
from lmsae.stages.stage import Done, Job, Stage, make_each


class Config(Frozen):
    """The page shows all that its input holds."""


def configs(row: ResolvedRow) -> list[Config]:
    """The page of the row's latents; none if the row wants no features."""
    return [Config()] if row.section(FeaturesSection).tokens else []


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `index.html` and `data/*.js`."""
    del runtime
    return make_each(jobs, _make)


def _make(job: Job) -> Facts:
    from lmsae.interpretation.rendering import write_page

    write_page(job.inputs["features"].path, job.out)
    return {}


STAGE = Stage(
    name="page",
    version=2,
    help="what each latent means -> a page that opens from disk",
    config=Config,
    inputs={"features": "features"},
    make=make,
    configs=configs,
    follows="features",
    is_wanted=True,
)
