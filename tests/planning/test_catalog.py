"""The zoo: names, their parts, and combinations that make no sense."""

from typing import Any

import pytest

from lmsae.errors import ConfigError
from lmsae.planning.catalog import ACT_FNS, CATALOG, GEOMETRIES, LOSSES, piece_fields, with_defaults
from lmsae.planning.dictionaries import SaeSection, choose_hook_points
from lmsae.planning.resolver import dictionary_of
from tests.architectures import SITES
from tests.miniature import PLACES


def resolved(width: int = 16, sites: int = 1, shared: tuple[str, ...] = (), **values: Any) -> Any:
    """What a row's `sae.*` columns mean; but for those that are shared, they are written in the row itself."""
    return dictionary_of(values, (width,) * sites, (width,) * sites, shared)


L1 = {"l1_coefficient": 1}
P = {"p_anneal_coefficient": 1}


@pytest.mark.parametrize("entry", CATALOG.values(), ids=list(CATALOG))
def test_every_entry_is_made_of_parts_that_exist_and_names_its_paper(entry: Any) -> None:
    assert entry.geometry in GEOMETRIES
    assert entry.act_fn in ACT_FNS
    assert {*entry.losses} <= {*LOSSES}
    assert set(entry.defaults) <= {*SaeSection.model_fields, *piece_fields()}
    assert any(character.isdigit() for character in entry.paper)


def test_what_tests_know_of_geometries_with_several_hook_points_is_complete() -> None:
    several = {kind for kind, geometry in GEOMETRIES.items() if not geometry.one_each}
    assert SITES.keys() == several
    assert several <= PLACES.keys() <= GEOMETRIES.keys()


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
        ({"architecture": "gated", "losses": ("l1",), "l1_coefficient": 1, "d_sae": 64}, "losses", "add gated_aux"),
        ({"architecture": "topk", "losses": ("gated_aux",), "k": 4, "d_sae": 64, **L1}, "losses", "gate .gated., not"),
        (
            {"architecture": "groupmax", "losses": ("multi_topk",), "k": 4, "d_sae": 64},
            "losses",
            "topk, batchtopk|topk or",
        ),
        ({"architecture": "groupmax", "k": 5, "d_sae": 64}, "k", "5 does not divide 64"),
        ({"architecture": "topk", "act_fn": "layertopk", "k": 4, "d_sae": 64}, "act_fn", "write topk"),
        (
            {"architecture": "crosscoder", "act_fn": "batchlayertopk", "losses": (), "k": 4, "d_sae": 64},
            "act_fn",
            "write b",
        ),
        (
            {"architecture": "topk", "act_fn": "matching_pursuit", "losses": (), "k": 4, "d_sae": 64},
            "act_fn",
            "tied_encoder",
        ),
        ({"architecture": "p_anneal", "unit_norm_decoder": False, "d_sae": 64, **P}, "unit_norm_decoder", "use lp"),
        (
            {"architecture": "gated", "sparsity_include_decoder_norm": True, "d_sae": 64, **L1},
            "sparsity_include_decoder_norm",
            "own way",
        ),
        (
            {"architecture": "abstopk", "convert_to_jumprelu": True, "k": 4, "d_sae": 64},
            "convert_to_jumprelu",
            "negative",
        ),
        (
            {"architecture": "clt", "unit_norm_decoder": True, "d_sae": 64, "tanh_coefficient": 1},
            "unit_norm_decoder",
            "no single",
        ),
        (
            {"architecture": "matryoshka", "losses": ("nested", "nested_sampled"), "k": 4, "d_sae": 64},
            "losses",
            "choose one",
        ),
        (
            {"architecture": "p_anneal", "p_anneal_start": 0.9, "p_anneal_end": 0.1, "d_sae": 64, **P},
            "losses",
            "p_anneal",
        ),
        ({"architecture": "p_anneal", "p_start": 0.2, "p_end": 0.5, "d_sae": 64, **P}, "losses", "above p_start"),
        ({"architecture": "topk", "k": 4, "d_sae": 10**12}, "d_sae", "at most"),
        ({"architecture": "topk", "k": 4, "d_sae": 64, "losses": ("auxk",)}, "losses", "there is no loss 'auxk'"),
        ({"architecture": "molt", "molt_ranks": "9" * 5000 + "x1", "d_sae": 64}, "molt_ranks", "not RANKxSHARE"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_column(values: dict[str, Any], column: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        resolved(**values)
    assert [fault.column for fault in error.value.faults] == [f"sae.{column}"]


def test_columns_that_all_rows_share_may_mean_nothing_to_some_of_them() -> None:
    dictionary, _ = resolved(architecture="topk", k=4, d_sae=64, l1_coefficient=1, shared=("l1_coefficient",))
    assert dictionary.act_fn.k == 4


def test_a_row_may_replace_a_part_of_its_architecture() -> None:
    dictionary, objective = resolved(architecture="topk", act_fn="batchtopk", losses=(), k=4, d_sae=64)
    assert dictionary.act_fn.kind == "batchtopk"
    assert objective.losses == ()


def test_an_architectures_own_defaults_give_way_to_the_rows() -> None:
    values = {"architecture": "standard", "d_sae": 64, "l1_coefficient": 1}
    assert resolved(**values)[1].unit_norm_decoder
    assert not resolved(**values, unit_norm_decoder=False)[1].unit_norm_decoder


def test_an_architecture_is_a_macro_for_its_parts() -> None:
    named = resolved(architecture="matryoshka", k=4, d_sae=64)
    by_hand = resolved(geometry="sae", act_fn="batchtopk", losses=("nested", "aux_k"), k=4, d_sae=64)
    assert named == by_hand


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "transcoder", "act_fn": "gated", "losses": ("gated_aux",), **L1},
        {"architecture": "crosscoder", "act_fn": "batchtopk", "losses": ("nested", "aux_k"), "k": 4},
        {"architecture": "skip_transcoder", "act_fn": "jumprelu", "losses": ("tanh", "pre_act"), "tanh_coefficient": 1},
        {"architecture": "clt", "act_fn": "batchlayertopk", "losses": ("aux_k",), "k": 100},
        {"architecture": "topk", "losses": ("nested_sampled", "aux_k", "multi_topk"), "k": 4, "glu_encoder": "true"},
    ],
)
def test_any_sensible_cross_product_is_a_row(values: dict[str, Any]) -> None:
    dictionary, objective = resolved(sites=2, d_sae=64, **values)
    meant = with_defaults(values)
    assert (dictionary.geometry.kind, tuple(loss.kind for loss in objective.losses)) == (
        meant["geometry"],
        meant["losses"],
    )


def where(**values: Any) -> Any:
    """The hook points that a row chooses, or the refusals that it meets."""
    refusals: list[tuple[str | None, str]] = []
    chosen = choose_hook_points(SaeSection(**values), lambda column, message: refusals.append((column, message)))
    return refusals if chosen is None else chosen


A, B, C = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"


def test_hook_points_are_those_that_the_geometry_takes() -> None:
    assert where(hook_point=(A,)) == ((A,), (A,))
    assert where(geometry="crosscoder", hook_point=(A, B)) == ((A, B), (A, B))
    assert where(geometry="transcoder", hook_point_in=(A,), hook_point_out=(C,)) == ((A,), (C,))
    assert where(geometry="clt", hook_point_in=(A, B), hook_point_out=(C, B)) == ((A, B), (C, B))


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        ({}, "hook_point", "is missing"),
        ({"hook_point": (A, B)}, "hook_point", "a crosscoder"),
        ({"hook_point": (A,), "hook_point_out": (C,)}, "hook_point_out", "writes what it reads"),
        ({"geometry": "transcoder", "hook_point": (A,)}, "hook_point", "hook_point_in and sae.hook_point_out"),
        ({"geometry": "transcoder", "hook_point_in": (A,)}, "hook_point_out", "needs it"),
        (
            {"geometry": "lorsa", "hook_point_in": (A, B), "hook_point_out": (C,)},
            "hook_point_in",
            "one hook point here",
        ),
        ({"geometry": "clt", "hook_point_in": (A, B), "hook_point_out": (C,)}, "hook_point_out", "names 1 hook points"),
        ({"geometry": "transcode", "hook_point": (A,)}, "geometry", "did you mean transcoder"),
        ({"geometry": "crosscoder", "hook_point": (A, B, A)}, "hook_point", "more than once"),
        ({"geometry": "clt", "hook_point_in": (A, B), "hook_point_out": (C, C)}, "hook_point_out", "more than once"),
    ],
)
def test_hook_points_that_a_geometry_does_not_take_are_refused(
    values: dict[str, Any], column: str, message: str
) -> None:
    ((found, said),) = where(**values)
    assert found == f"sae.{column}"
    assert message in said
