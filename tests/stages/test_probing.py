"""Rows with probes: metrics of a group of its own, which comes and goes without the others being measured again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.metrics.definitions import GROUPS, PROBES
from tests.miniature import ROWS, Said, row_of, write_config, write_sweep
from tests.stages.test_evaluate import evaluate, evaluations, facts, payload

pytestmark = [pytest.mark.apart, pytest.mark.slow]
TRUTH, TOXIC = "41_truthqa_tf", "95_toxic_is"


def probes_of(folder: Path) -> list[dict[str, float]]:
    import json

    found = [json.loads((artifact.path / "metrics.json").read_text()) for artifact in evaluations(folder)]
    return [{name: value for name, value in one.items() if name.startswith("probe_")} for one in found]


def test_probes_alone_are_measured_where_all_else_is_known_and_the_same_again_from_nothing(
    made: Path, lmsae: Callable[..., Said]
) -> None:
    before = evaluations(made)[:2]
    write_sweep(made, ROWS[:2])
    write_config(made, eval={"probes": [TRUTH, TOXIC], "probes_k": [1, 8]})
    after = evaluate(made, lmsae)
    names = {f"probe_auc{std}[k={k}]" for std in ("", "_std") for k in (1, 8)} | {"probe_datasets"}
    for found, artifact, other in zip(probes_of(made), after, before, strict=True):
        assert found.keys() == names
        assert found["probe_datasets"] == 2
        assert 0.4 < found["probe_auc[k=1]"] < 0.9
        assert facts(artifact)["measured"] == [PROBES.name]
        assert facts(artifact)["tokens"] == 0  # the held-out text is not read again
        assert facts(artifact)["taken_over"] == dict.fromkeys(sorted(GROUPS), other.reference)
    expected = [payload(artifact) for artifact in after]
    for artifact in (*after, *before):
        artifact.remove()
    assert [payload(artifact) for artifact in evaluate(made, lmsae)] == expected

    write_config(made, eval={"probes": [TRUTH]})
    fewer = evaluate(made, lmsae)
    assert [facts(artifact)["measured"] for artifact in fewer] == [[PROBES.name]] * 2
    assert [found["probe_auc_std[k=16]"] for found in probes_of(made)] == [None, None]


def test_several_hook_points_are_probed_side_by_side_and_a_lorsa_has_no_probes(
    fresh: Path, lmsae: Callable[..., Said]
) -> None:
    write_config(fresh, eval={"probes": [TRUTH]}, features={"tokens": 0})
    write_sweep(fresh, [row_of("crosscoder"), row_of("molt"), row_of("lorsa")])
    assert lmsae("run").code == 0
    crosscoder, molt, lorsa = probes_of(fresh)
    assert crosscoder.keys() == molt.keys() >= {"probe_auc[k=1]", "probe_auc[k=16]"}
    assert lorsa == {}
    assert "probes" not in evaluations(fresh)[2].spec().config["groups"]
