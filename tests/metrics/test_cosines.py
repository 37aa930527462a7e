"""Metrics of weights, by hand on tiny examples."""

import pytest
import torch

from lmsae.metrics.cosines import decoder_geometry, nearest_cosines


def test_decoder_geometry_is_that_of_the_rows() -> None:
    decoder = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    encoder = torch.tensor([[1.0, 1.0, 3.0], [0.0, 0.0, 4.0]])
    found = decoder_geometry(encoder, decoder, chunk=2)
    assert found == pytest.approx(
        {
            "decoder_norm": (2 + 1 + 5) / 3,
            "encoder_decoder_cossim": (1 + 0 + 1) / 3,
            # Nearest to (1, 0) is (.6, .8) at .6; to (0, 1) the same at .8; to (.6, .8) the second at .8.
            "nearest_decoder_cossim": (0.6 + 0.8 + 0.8) / 3,
            # Columns are (1, 0) twice and (.6, .8): each of the first two is the other's.
            "nearest_encoder_cossim": (1 + 1 + 0.6) / 3,
        }
    )


def test_the_nearest_row_is_never_the_row_itself_whatever_the_chunks() -> None:
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    cosines = (rows @ rows.T) / rows.norm(dim=1)[:, None] / rows.norm(dim=1)
    expected = cosines.fill_diagonal_(-2).amax(1)
    for chunk in (1, 3, 7):
        torch.testing.assert_close(nearest_cosines(rows, chunk=chunk), expected)
