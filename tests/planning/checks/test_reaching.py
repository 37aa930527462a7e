"""A hook point that is named by a module of transformers is refused for another backend, at the backend's column."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.miniature import ROWS, Said, write_sweep

MODULES = ["gpt_neox.layers.1.mlp.act", "gpt_neox.layers.1.mlp.dense_h_to_4h:in"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_refused_under_transformerlens_and_planned_under_huggingface(
    fresh: Path, lmsae: Callable[..., Said], module: str
) -> None:
    other = {**ROWS[0], "sae.hook_point": module}
    write_sweep(fresh, [{**other, "model.backend": "transformerlens"}])
    said = lmsae("plan")
    told = f"transformerlens does not know the modules of transformers, such as {module}; leave it at huggingface"
    assert (said.code, f"row top, column model.backend: {told}" in said.err) == (2, True), said
    write_sweep(fresh, [other])
    assert lmsae("plan").code == 0


def test_a_hook_point_with_a_name_of_its_own_is_planned_under_both_backends(
    fresh: Path, lmsae: Callable[..., Said]
) -> None:
    write_sweep(
        fresh, [{**ROWS[0], "name": name, "model.backend": name} for name in ("huggingface", "transformerlens")]
    )
    assert lmsae("plan").code == 0
