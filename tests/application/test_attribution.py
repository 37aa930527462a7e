"""Attribution is the fall of a logit by ablation where the logit is linear, and its slope everywhere."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.named import load
from lmsae.application.replacement import splice
from lmsae.application.strongest import top_latents
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ShapeError, SourceError
from tests.application.conftest import TEXT
from tests.architectures import parts, randomize

LINEAR = "builtin:features?features=64&width=16&layers=2"
IDS = [5, 9, 2, 30, 7, 11]


def logit_with(sae: LoadedDictionary, ids: Tensor, codes: Tensor, position: int, token: int) -> float:
    """A logit of the model with other codes, and all else as it is."""
    found = sae.model.read(ids, [*sae.reads, *sae.writes])
    x = torch.cat([found[name] for name in sae.reads], dim=-1)
    difference = sae.dictionary.decode(codes, x) - sae.dictionary(x)
    parts = dict(zip(sae.writes, difference.split(sae.config.widths.writes, dim=-1), strict=True))
    replaces = sae.config.geometry.autoencodes
    edits = {name: lambda a, n=name: (found[n] if replaces else a) + parts[n] for name in sae.writes}
    return float(sae.model.logits_with(ids, edits)[0, position, token])


@pytest.mark.parametrize("architecture", ["topk", "gated", "batchtopk"])
def test_where_the_logit_is_linear_it_is_the_fall_by_ablation(architecture: str, tmp_path: Path) -> None:
    randomize(Dictionary(parts(architecture, width=16, d_sae=32)[0])).save(tmp_path)
    sae = load(tmp_path, model=LINEAR, hook_point="blocks.1.hook_resid_pre", device="cpu")
    ids = sae.tokenize(IDS)
    found = sae.attribute(IDS, token=3, minus=8)
    plain = sae.model.logits(ids)[0, -1]
    assert found.logit == pytest.approx(float(plain[3] - plain[8]), abs=1e-5)
    codes = sae.encode(sae.read(IDS))
    assert codes[0, -1].count_nonzero() > 2
    for latent in codes[0, -1].nonzero().flatten().tolist():
        ablated = codes.clone()
        ablated[0, -1, latent] = 0
        left = logit_with(sae, ids, ablated, -1, 3) - logit_with(sae, ids, ablated, -1, 8)
        assert float(found.scores[-1, latent]) == pytest.approx(found.logit - left, abs=1e-4)
    assert not found.scores[:-1].any()  # no token reads another one's residual in this model


def test_it_is_the_slope_of_the_logit_times_the_code(sae: LoadedDictionary) -> None:
    found, ids = sae.attribute(TEXT), sae.tokenize(TEXT)
    plain = sae.model.logits(ids)[0, -1]
    assert (found.logit, found.token) == (float(plain.max()), int(plain.argmax()))
    codes, step = sae.encode(sae.read(TEXT)), 1e-2
    for share in found.top(4):
        sides = []
        for sign in (1, -1):
            moved = codes.clone()
            moved[0, share.position, share.latent] *= 1 + sign * step
            sides.append(logit_with(sae, ids, moved, -1, found.token))
        assert share.score == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=0.05, abs=2e-3)


def test_the_largest_shares_come_first_and_are_a_table(top: LoadedDictionary) -> None:
    found = top.attribute(TEXT, position=4, token="a", minus="b")
    shares = found.top(5)
    assert [abs(share.score) for share in shares] == sorted((abs(share.score) for share in shares), reverse=True)
    assert abs(shares[0].score) == pytest.approx(float(found.scores.abs().max()))
    assert all(share.position <= 4 for share in shares)  # nothing behind a prediction has a share in it
    assert all(share.code == float(found.codes[share.position, share.latent]) for share in shares)
    torch.testing.assert_close(found.by_latent(), found.scores.sum(0))
    said = str(found)
    assert said.startswith("logit of 'a' - logit of 'b' at position 4: ")
    assert f"{shares[0].score:+.3f}" in said


def test_it_has_gradients_after_what_needs_none(here: Path) -> None:
    first = load("top", device="cpu").attribute(TEXT)
    for look in (lambda sae: top_latents(sae, TEXT), lambda sae: splice([sae], TEXT), lambda sae: sae.generate(TEXT)):
        fresh = load("top", device="cpu")
        look(fresh)
        assert torch.equal(fresh.attribute(TEXT).scores, first.scores)


def test_what_is_no_token_or_position_is_refused(top: LoadedDictionary) -> None:
    with pytest.raises(ShapeError, match="no position 13: the text has 13 tokens"):
        top.attribute(TEXT, position=13)
    with pytest.raises(SourceError, match=r"'ab' is 2 tokens"):
        top.attribute(TEXT, token="ab")
    with pytest.raises(ShapeError, match="no token 999"):
        top.attribute(TEXT, token=999)
