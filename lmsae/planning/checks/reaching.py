"""Checks of a row's backend: it must know the model, and hook points that are named by modules."""

from collections.abc import Iterator, Sequence

from lmsae.config import JsonObject
from lmsae.lm import lens_models
from lmsae.lm.hook_points import is_module
from lmsae.planning.draft import Check, Refusal
from lmsae.stages.models import ModelSection
from lmsae.stages.sites import Places


def the_backend_reaches_the_hook_points(model: ModelSection, places: Places) -> Iterator[Refusal]:
    modules = [place.hook_point for place in places.all if is_module(place.hook_point)]
    if modules and model.backend != "huggingface":
        message = f"{model.backend} does not know the modules of transformers, such as {modules[0]}"
        yield Refusal("model.backend", f"{message}; leave it at huggingface")


def the_backend_knows_the_models(model: ModelSection, model_configs: Sequence[JsonObject]) -> Iterator[Refusal]:
    reasons = [reason for config in model_configs if (reason := lens_models.obstacle(config, model.backend))]
    if reasons:
        yield Refusal("model.backend", reasons[0])


CHECKS: tuple[Check, ...] = (the_backend_reaches_the_hook_points, the_backend_knows_the_models)
