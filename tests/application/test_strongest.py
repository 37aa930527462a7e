"""The strongest latents at each token are those of the dense codes, with what features say of them."""

import pytest
import torch

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.strongest import top_latents
from lmsae.errors import NotEnoughTokens, ShapeError
from tests.application.conftest import TEXT


def test_they_are_the_largest_codes_of_each_token(sae: LoadedDictionary) -> None:
    found = top_latents(sae, TEXT, k=3)
    codes = sae.encode(sae.read(TEXT))[0]
    assert [token.text for token in found.tokens[1:]] == list(TEXT)
    assert found.tokens[0].latents == []  # BOS, on which no dictionary is trained
    for token in found.tokens[1:]:
        own = codes[token.position]
        largest = own.abs().topk(3).values
        shown = torch.tensor([latent.code for latent in token.latents])
        torch.testing.assert_close(shown.abs(), largest[largest > 0])
        torch.testing.assert_close(own[[latent.latent for latent in token.latents]], shown)


def test_they_are_a_table_and_plain_data(top: LoadedDictionary) -> None:
    found = top_latents(top, TEXT, k=2)
    lines = str(found).splitlines()
    assert len(lines) == len(found.tokens) == len(TEXT) + 1
    strongest = found.tokens[2].latents[0]
    assert f'"{TEXT[1]}"' in lines[2]
    assert f"{strongest.latent} {strongest.code:.2f} ({strongest.meaning})" in lines[2]
    assert found.to_dicts()[2]["latents"][0] == {
        "latent": strongest.latent,
        "code": strongest.code,
        "meaning": strongest.meaning,
    }


def test_a_meaning_is_the_tokens_that_a_latent_fires_on_most(top: LoadedDictionary) -> None:
    (latent, *_) = top_latents(top, TEXT, k=1).tokens[3].latents
    tokens = [f'"{token["text"]}"' for token in top.features.latent(latent.latent)["top_tokens"][:3]]
    assert latent.meaning == " ".join(tokens)


def test_no_latents_and_no_text_are_refused(top: LoadedDictionary) -> None:
    with pytest.raises(ShapeError, match="k is 0"):
        top_latents(top, TEXT, k=0)
    with pytest.raises(NotEnoughTokens, match="no tokens"):
        top_latents(top, [])
