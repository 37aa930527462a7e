"""What initializations cannot be together with: the column, the reason and the way out, before anything runs."""

import pytest

from lmsae.initialization.config import InitConfig, fault
from tests.dictionary.grid import ACT_FNS, GEOMETRIES, Case


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_defaults_go_with_every_dictionary(geometry: str) -> None:
    for act_fn in ACT_FNS:
        for unit_norm_decoder in (False, True):
            assert fault(InitConfig(), Case(geometry, act_fn).config, unit_norm_decoder) is None


@pytest.mark.parametrize(
    ("options", "case", "unit_norm_decoder", "column", "message"),
    [
        ({"decoder_init": "datapoint"}, Case("molt", "relu"), False, "decoder_init", "leave it at unit"),
        ({"decoder_init": "kaiming"}, Case("sae", "relu"), True, "decoder_init", "use uniform"),
        ({"encoder_factor": 2}, Case("sae_tied", "topk"), False, "encoder_factor", "leave the factor at 1"),
        ({"b_enc": "minus_mean_pre"}, Case("sae", "gated"), False, "b_enc", "leave it at zero"),
        ({"from_model": True}, Case("sae", "relu"), False, "from_model", "only transcoder, skip_transcoder, lorsa"),
        ({"from_model": True}, Case("transcoder", "gated"), False, "from_model", "use relu, jumprelu or topk"),
        ({"from_model": True}, Case("transcoder_glu", "relu"), False, "from_model", "leave it off"),
        ({"from_model": True}, Case("lorsa", "relu", "token"), False, "from_model", "use dataset, whiten or none"),
        (
            {"from_model": True, "decoder_init": "uniform"},
            Case("lorsa", "topk"),
            False,
            "decoder_init",
            "directions of its heads",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_column_and_what_to_do(
    options: dict, case: Case, unit_norm_decoder: bool, column: str, message: str
) -> None:
    found = fault(InitConfig(**options), case.config, unit_norm_decoder)
    assert found is not None
    assert found[0] == column
    assert message in found[1]
