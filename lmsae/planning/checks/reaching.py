"""A check of a row's hook points: those that are named by modules exist for one backend only."""

from collections.abc import Iterator

from lmsae.lm.hook_points import is_module
from lmsae.planning.draft import Check, Refusal
from lmsae.stages.models import ModelSection
from lmsae.stages.sites import Places


def the_backend_reaches_the_hook_points(model: ModelSection, places: Places) -> Iterator[Refusal]:
    modules = [place.hook_point for place in places.all if is_module(place.hook_point)]
    if modules and model.backend != "huggingface":
        message = f"{model.backend} does not know the modules of transformers, such as {modules[0]}"
        yield Refusal("model.backend", f"{message}; leave it at huggingface")


CHECKS: tuple[Check, ...] = (the_backend_reaches_the_hook_points,)
