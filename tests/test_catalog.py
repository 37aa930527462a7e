"""The zoo: names, their parts, and combinations that make no sense."""

from typing import Any

import pytest

from lmsae.catalog import ACT_FNS, CATALOG, GEOMETRIES, LOSSES, SaeSection, SectionFault, resolve, with_defaults


def resolved(width: int = 16, written: set[str] | None = None, **values: Any) -> Any:
    """What a row's `sae.*` columns mean; all that belong to a part count as written in the row itself."""
    values = with_defaults({"hook_point": "blocks.0.hook_resid_post", **values})
    common = {name: value for name, value in values.items() if name in SaeSection.model_fields}
    pieces = {name: value for name, value in values.items() if name not in common}
    return resolve(SaeSection(**common), pieces, frozenset(pieces if written is None else written), width)


@pytest.mark.parametrize("entry", CATALOG.values(), ids=list(CATALOG))
def test_every_entry_is_made_of_parts_that_exist_and_names_its_paper(entry: Any) -> None:
    assert entry.geometry in GEOMETRIES
    assert entry.act_fn in ACT_FNS
    assert {*entry.losses} <= {*LOSSES}
    assert set(entry.defaults) <= set(SaeSection.model_fields)
    assert any(character.isdigit() for character in entry.paper)


def test_the_number_of_latents_is_given_or_a_multiple_of_the_width() -> None:
    assert resolved(architecture="topk", k=4, d_sae=64)[0].d_sae == 64
    assert resolved(architecture="topk", k=4, expansion_factor=2.5)[0].d_sae == 40


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        ({"architecture": "topkk", "k": 4, "d_sae": 64}, "architecture", "did you mean topk"),
        ({"architecture": ["topk"], "k": 4, "d_sae": 64}, "architecture", "there is no architecture"),
        ({"architecture": 5, "k": 4, "d_sae": 64}, "architecture", "there is no architecture 5"),
        ({"architecture": "topk", "k": 4, "expansion_factor": 0.01}, "expansion_factor", "is no latent"),
        ({"architecture": "topk", "k": 4, "d_sae": 64, "losses": ("aux_k", "aux_k")}, "losses", "each loss once"),
        ({"architecture": "topk", "d_sae": 64}, "k", "topk needs it"),
        ({"architecture": "topk", "k": 0, "d_sae": 64}, "k", "greater than 0"),
        ({"architecture": "topk", "k": 65, "d_sae": 64}, "k", "only 64 latents"),
        ({"architecture": "standard", "d_sae": 64}, "l1_coefficient", "l1 needs it"),
        ({"architecture": "jumprelu", "d_sae": 64}, "l0_coefficient", "l0 needs it"),
        ({"architecture": "topk", "k": 4}, "d_sae", "one of sae.d_sae and sae.expansion_factor"),
        ({"architecture": "topk", "k": 4, "d_sae": 64, "expansion_factor": 4.0}, "d_sae", "one of"),
        ({"architecture": "topk", "k": 4, "d_sae": 64, "l1_coefficient": 1}, "l1_coefficient", "belongs to l1"),
        ({"architecture": "topk", "k": 4, "d_sae": 64, "losses": ("l0",), "l0_coefficient": 1}, "losses", "jumprelu"),
        ({"act_fn": "relu", "d_sae": 64}, "losses", "not sparse"),
        ({"act_fn": "jumprelu", "d_sae": 64}, "losses", "not sparse"),
        ({"act_fn": "topkk", "d_sae": 64}, "act_fn", "did you mean topk"),
        ({"d_sae": 64}, "architecture", "name an architecture"),
        ({"architecture": "topk", "geometry": "sea", "k": 4, "d_sae": 64}, "geometry", "did you mean sae"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_column(values: dict[str, Any], column: str, message: str) -> None:
    with pytest.raises(SectionFault, match=message) as fault:
        resolved(**values)
    assert fault.value.column == column


def test_columns_that_all_rows_share_may_mean_nothing_to_some_of_them() -> None:
    dictionary, _ = resolved(architecture="topk", k=4, d_sae=64, l1_coefficient=1, written={"k"})
    assert dictionary.act_fn.k == 4


def test_a_row_may_replace_a_part_of_its_architecture() -> None:
    dictionary, objective = resolved(architecture="topk", act_fn="batchtopk", losses=(), k=4, d_sae=64)
    assert dictionary.act_fn.kind == "batchtopk"
    assert objective.losses == ()


def test_an_architectures_own_defaults_give_way_to_the_rows() -> None:
    values = {"architecture": "standard", "d_sae": 64, "l1_coefficient": 1}
    assert resolved(**values)[1].unit_norm_decoder
    assert not resolved(**values, unit_norm_decoder=False)[1].unit_norm_decoder
