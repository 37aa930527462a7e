"""The width of a module's activations: a model without weights is run on torch's meta device, which computes shapes.

Families without names of their own have hook points by module. What such a module yields stands in no config.json.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmsae.errors import HookPointError
from lmsae.lm.hook_points import locate, require

if TYPE_CHECKING:
    from torch import nn

_BATCH, _CONTEXT = 2, 3
"""Unequal, so that no dimension is taken for another."""


def module_width(config: Mapping[str, Any], name: str) -> int:
    """The width of a hook point that is named by its module, of the model that this config.json describes.

    If transformers cannot build the model from it (it has code of its own), or run it without weights, the width of the
    residual stream is taken, and capturing says so if that is wrong.

    Raises HookPointError if the model has no such module, or if the module yields no tensor (batch, context, width).
    """
    nominal = require(name, config)
    from lmsae.lm.pretrained import listen

    with listen():
        model = _build(config)
        found = None if model is None else _run(model, name, config)
    return nominal if found is None else found


def _build(config: Mapping[str, Any]) -> "nn.Module | None":
    """The model on the meta device; None if transformers cannot build it."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    try:
        described = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(described).eval()
    except Exception:  # of any class: whatever config.json can hold, some code of transformers reads
        return None


def _run(model: "nn.Module", name: str, config: Mapping[str, Any]) -> int | None:
    """The width that a module yields as a model is run on tokens without a value; None if the model asks for one before
    it comes to the module."""
    import torch

    from lmsae.lm.tapping import Tap, find_module, require_tapped

    where = locate(name, config)
    module = find_module(model, where.module)
    tokens = torch.zeros(_BATCH, _CONTEXT, dtype=torch.long, device="meta")
    # Many models look into a mask to see if it can be left out. One for each pair of tokens is taken as it is.
    for mask in (None, torch.ones(_BATCH, 1, _CONTEXT, _CONTEXT, dtype=torch.bool, device="meta")):
        widths: list[int] = []
        tap = Tap(name, lambda x, widths=widths: widths.append(x.shape[-1]), False, lambda: (_BATCH, _CONTEXT))
        handle = tap.attach(module, where.side)
        try:
            with torch.no_grad():
                model(input_ids=tokens, attention_mask=mask, use_cache=False)
            require_tapped([tap])
        except HookPointError:
            raise
        except Exception:  # of any class: a model may look at numbers, and there are none
            pass
        finally:
            handle.remove()
        if widths:
            return widths[0]
    return None
