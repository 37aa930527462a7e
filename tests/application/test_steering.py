"""The model writes as it would with the difference in its activations, and as it does by itself where there is none."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.named import load
from lmsae.application.steering import SteeredModel, Steering, generate
from lmsae.errors import NotEnoughTokens, ShapeError, SourceError
from tests.application.conftest import TEXT, at_model
from tests.miniature import HERE

WAYS: dict[str, dict[str, Any]] = {
    "add": {"add": {3: 2.5, 40: -1.0}},
    "clamp": {"clamp": {3: 4.0}},
    "ablate": {"ablate": [3, 5, 60]},
    "all": {"add": {1: 5.0}, "clamp": {2: 3.0, 60: 1.0}, "ablate": [4]},
}


def changed(codes: Tensor, add: Any = None, clamp: Any = None, ablate: Any = ()) -> Tensor:
    """The codes of all latents, steered one by one."""
    steered = codes.clone()
    for latent, amount in (add or {}).items():
        steered[..., latent] += amount
    for latent, value in {**(clamp or {}), **dict.fromkeys(ablate, 0.0)}.items():
        steered[..., latent] = value
    return steered


def by_hand(sae: LoadedDictionary, ids: Tensor, way: dict[str, Any]) -> Tensor:
    """The logits of a whole context, where two whole reconstructions differ."""
    model, dictionary = sae.model, sae.dictionary
    found = model.read(ids, [*sae.reads, *sae.writes])
    x = torch.cat([found[name] for name in sae.reads], dim=-1)
    codes = dictionary.encode(x)
    difference = dictionary.decode(changed(codes, **way), x) - dictionary.decode(codes, x)
    difference = difference * sae.counted(ids)[..., None]
    parts = dict(zip(sae.writes, difference.split(sae.config.widths.writes, dim=-1), strict=True))
    replaces = sae.config.geometry.autoencodes

    def edit(name: str) -> Callable[[Tensor], Tensor]:
        return lambda activations: (found[name] if replaces else activations) + parts[name]

    return model.logits_with(ids, {name: edit(name) for name in sae.writes})


def steered_by(sae: LoadedDictionary, add: Any = None, clamp: Any = None, ablate: Any = ()) -> SteeredModel:
    return SteeredModel(sae, Steering.of(sae, add or {}, clamp or {}, ablate))


@pytest.mark.parametrize("way", WAYS)
def test_logits_are_those_of_the_difference_that_steering_makes(sae: LoadedDictionary, way: str) -> None:
    ids = sae.tokenize(TEXT)
    expected = by_hand(sae, ids, WAYS[way])
    torch.testing.assert_close(steered_by(sae, **WAYS[way]).read_on(ids), expected, atol=2e-5, rtol=1e-4)
    assert (expected - sae.model.logits(ids)).abs().max() > 1e-3 or way == "ablate"


def test_tokens_read_one_by_one_are_steered_as_in_one_pass(sae: LoadedDictionary) -> None:
    ids, steered = sae.tokenize(TEXT), steered_by(sae, **WAYS["all"])
    last = [steered.read_on(ids[:, : n + 1])[:, -1] for n in range(ids.shape[1])]
    expected = by_hand(sae, ids, WAYS["all"])
    torch.testing.assert_close(torch.stack(last, dim=1), expected, atol=2e-5, rtol=1e-4)


def test_steering_nothing_is_the_model_itself_bit_for_bit(sae: LoadedDictionary) -> None:
    ids = sae.tokenize(TEXT)
    codes = sae.encode(sae.read(ids), [3])
    plain = sae.model.logits(ids)
    assert torch.equal(steered_by(sae).read_on(ids), plain)
    assert torch.equal(steered_by(sae, add={3: 0.0, 9: 0.0}).read_on(ids), plain)
    silent = [n for n in range(64) if not sae.encode(sae.read(ids), [n]).any()]
    assert torch.equal(steered_by(sae, ablate=silent).read_on(ids), plain)
    assert not torch.equal(steered_by(sae, clamp={3: float(codes.max()) + 5.0}).read_on(ids), plain)


def test_a_continuation_is_that_of_whole_passes(sae: LoadedDictionary) -> None:
    way = WAYS["all"]
    written = generate(sae, TEXT, max_new_tokens=6, temperature=0, **way)
    ids = sae.tokenize(TEXT)
    for _ in range(len(written.ids) - ids.shape[1]):
        ids = torch.cat([ids, by_hand(sae, ids, way)[:, -1:].argmax(-1)], dim=1)
    assert written.ids == ids[0].tolist()
    assert written.prompt == TEXT
    assert str(written) == TEXT + written.text


def test_without_steering_the_model_writes_what_it_writes(top: LoadedDictionary) -> None:
    ids = top.tokenize(TEXT)
    written = top.generate(TEXT, max_new_tokens=8, temperature=0).ids
    while ids.shape[1] < len(written):
        ids = torch.cat([ids, top.model.logits(ids)[:, -1:].argmax(-1)], dim=1)
    assert written == ids[0].tolist()


@pytest.mark.parametrize("kind", ["topk", "transcoder", "crosscoder", "lorsa"])
def test_both_backends_write_the_same(kind: str, folders: Path, here: Path) -> None:
    ours, theirs = (
        at_model(folders, kind, backend=backend).generate(TEXT, add={3: 2.0}, max_new_tokens=8)
        for backend in ("huggingface", "transformerlens")
    )
    assert ours == theirs


def test_a_seed_gives_one_text_and_another_seed_another(top: LoadedDictionary) -> None:
    first, again, other = (top.generate(TEXT, add={3: 1.0}, max_new_tokens=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_drawn_tokens_follow_the_temperature(top: LoadedDictionary) -> None:
    likeliest = top.generate(TEXT, max_new_tokens=10, temperature=0)
    assert top.generate(TEXT, max_new_tokens=10, temperature=1e-4, seed=3) == likeliest
    assert len({top.generate(TEXT, max_new_tokens=3, temperature=5.0, seed=seed).text for seed in range(8)}) > 3


def test_special_tokens_keep_their_activations(top: LoadedDictionary) -> None:
    ids = top.tokenize([0, 0, 0])
    assert torch.equal(steered_by(top, add={3: 50.0}).read_on(ids), top.model.logits(ids))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ({"add": {64: 1.0}}, "there is no latent 64: top has 64"),
        ({"add": {-1: 1.0}}, "no latent -1"),
        ({"add": {3: 1.0}, "ablate": [3]}, "latent 3 is steered in two ways"),
        ({"clamp": {3: 1.0}, "ablate": [3]}, "latent 3 is steered in two ways"),
        ({"clamp": {3: math.nan}}, "latent 3 cannot be steered by nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
    ],
)
def test_what_cannot_be_steered_is_refused(top: LoadedDictionary, way: dict[str, Any], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        top.generate(TEXT, **way)


@pytest.mark.parametrize("count", [0, 52])
def test_a_continuation_longer_than_the_model_reads_is_refused(top: LoadedDictionary, count: int) -> None:
    with pytest.raises(NotEnoughTokens, match=r"max_new_tokens"):
        top.generate(TEXT, max_new_tokens=count)


@pytest.mark.slow
@pytest.mark.xdist_group("geometries")
def test_a_crosscoder_of_several_models_reads_both_and_steers_none(
    geometries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(geometries)
    sae = load("of-both", device="cpu")
    ids = sae.tokenize(TEXT)
    each = [model.read(ids, [HERE])[HERE] for model in sae.models]
    assert len(each) == 2
    assert torch.equal(sae.read(TEXT), torch.cat(each, dim=-1))
    with pytest.raises(SourceError, match="of-both reads 2 models at once"):
        sae.generate(TEXT, add={3: 1.0})
