"""A dictionary that starts from another is that dictionary, bit for bit; a wider one begins with its latents."""

from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor

from lmsae.dictionary.config import Normalization
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import FolderError
from lmsae.initialization.blocks_of_latents import blocks_of, why_not_wider
from lmsae.initialization.from_dictionary import take_over
from lmsae.planning.catalog import CATALOG
from tests.architectures import parts, randomize
from tests.interop.peers import LATENTS, OUT_WIDTH, WIDTH, activations, fitted

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
WIDER = 2 * LATENTS


def inputs(dictionary: Dictionary) -> Tensor:
    """Raw activations of whole contexts at all hook points: (contexts, positions, d_in)."""
    widths = dictionary.config.widths.reads
    return torch.cat([activations(width) for width in widths], -1).unflatten(0, (4, 16))


def threshold(dictionary: Dictionary) -> Tensor:
    return cast(Tensor, dictionary.sparsity.threshold)


def other(name: str, **columns: Any) -> Dictionary:
    """A dictionary of the same architecture with other weights, thresholds and units."""
    made = randomize(Dictionary(parts(name, WIDTH, LATENTS, out_width=OUT_WIDTH, **columns)[0]), seed=7)
    return made.requires_grad_(False).eval()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", CATALOG)
def test_it_computes_what_the_other_computes(name: str, normalization: Normalization) -> None:
    source = fitted(name, normalize_activations=normalization)
    started, x = other(name, normalize_activations=normalization), inputs(source)
    assert not torch.equal(started(x), source(x))
    take_over(started, source, unit_norm_decoder=False)
    assert torch.equal(started.encode(x), source.encode(x))
    assert torch.equal(started(x), source(x))
    states = started.state_dict(), source.state_dict()
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


# Where the latents of the source stand, in a dictionary of twice as many, by hand.
SIDE_BY_SIDE = [*range(LATENTS)]
PLACES = {
    "crosscoder": SIDE_BY_SIDE,
    "clt": [*range(LATENTS), *range(WIDER, WIDER + LATENTS)],
    "lorsa": [*range(12), *range(24, 36)],  # two QK heads
    "molt": [*range(6), *range(12, 30)],  # ranks 2x1 1x3: 6 and 18 transforms, of 12 and 36
    "transcoder": SIDE_BY_SIDE,
    "skip_transcoder": SIDE_BY_SIDE,
    **dict.fromkeys(("standard", "gated", "jumprelu", "topk", "batchtopk", "matching_pursuit"), SIDE_BY_SIDE),
    "groupmax": [12 * group + latent for group in range(4) for latent in range(6)],
}


@pytest.mark.parametrize("name", PLACES)
def test_a_wider_one_begins_with_the_latents_of_the_other(name: str) -> None:
    source = fitted(name)
    wider = randomize(Dictionary(parts(name, WIDTH, WIDER, out_width=OUT_WIDTH)[0])).requires_grad_(False).eval()
    before = {key: value.clone() for key, value in wider.state_dict().items()}
    take_over(wider, source, unit_norm_decoder=False)
    x, places = inputs(source), torch.tensor(PLACES[name])
    torch.testing.assert_close(
        wider.geometry.encode(wider.read(x))[..., places], source.geometry.encode(source.read(x))
    )
    codes = torch.randn(4, 16, source.geometry.latents, generator=torch.Generator().manual_seed(5))
    spread = torch.zeros(4, 16, wider.geometry.latents)
    spread[..., places] = codes
    torch.testing.assert_close(wider.decode(spread, x), source.decode(codes, x))
    rest = sorted({*range(wider.geometry.latents)} - {*PLACES[name]})
    norms = wider.geometry.norms()
    torch.testing.assert_close(norms[places], source.geometry.norms())
    fresh = Dictionary(wider.config)
    fresh.load_state_dict(before)
    torch.testing.assert_close(norms[rest], fresh.geometry.norms()[rest])
    if hasattr(source.sparsity, "threshold") and name in ("jumprelu", "clt", "molt"):
        assert torch.equal(threshold(wider)[places], threshold(source))


def test_a_learned_threshold_is_kept_in_a_wider_one() -> None:
    source = fitted("batchtopk")
    wider = Dictionary(parts("batchtopk", WIDTH, WIDER)[0]).requires_grad_(False)
    take_over(wider, source, unit_norm_decoder=False)
    assert threshold(source)[0] > 0
    assert threshold(wider).unique().tolist() == threshold(source).unique().tolist()


def test_rows_that_are_to_keep_norm_1_must_have_it() -> None:
    take_over(other("standard"), fitted("standard"), unit_norm_decoder=True)
    with pytest.raises(FolderError, match=r"decoder rows of other norms than 1, .* set that to false"):
        take_over(other("standard_new"), fitted("standard_new"), unit_norm_decoder=True)


def test_blocks_that_do_not_begin_those_of_a_wider_one_are_told() -> None:
    def config(name: str, d_sae: int, **columns: Any) -> Any:
        return parts(name, WIDTH, d_sae, out_width=OUT_WIDTH, **columns)[0]

    assert blocks_of(config("molt", 24)) == [6, 18]
    assert why_not_wider(config("molt", 24), config("molt", 48)) is None
    turned = config("molt", 30, molt_ranks="2x1 1x14")
    assert "blocks of 6 18, and here there would be 2 28" in str(why_not_wider(config("molt", 24), turned))
    assert "another k makes other groups" in str(why_not_wider(config("groupmax", 24), config("groupmax", 48, k=8)))
