"""Sparse probes: the activations that sae-probes is given, and with the real package what it finds in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.artifacts.artifact import Artifact
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import SourceError
from lmsae.evaluation.hooked import HookPoint
from lmsae.evaluation.probes import TextEncoder, import_package, probe, read_last_tokens
from lmsae.runtime.runtime import Runtime
from lmsae.stages.evaluate import Config
from lmsae.stages.inputs.probed import known_datasets, text_encoder_for
from tests.architectures import parts
from tests.miniature import HERE, THERE, keys

apart = pytest.mark.apart
TRUTH, CALIFORNIA = "41_truthqa_tf", "118_us_state_CA"
TEXTS = ["a", "bcd efg", "", "one two three four five six seven eight nine ten eleven twelve thirteen", "x y", "zz"]


@pytest.fixture
def model(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(finished)
    (key, *_) = keys(finished, "eval")
    config = Config.model_validate(Artifact(finished / "artifacts/eval" / key).spec().config)
    return config.models[0].load(Runtime(device="cpu"))


@pytest.fixture
def encoder(finished: Path, model: Any) -> TextEncoder:
    (key,) = keys(finished, "tokenize")
    return text_encoder_for(Artifact(finished / "artifacts/tokenize" / key), [model], batch=2)


def test_texts_begin_with_bos_and_lose_their_front_where_they_are_too_long(encoder: TextEncoder) -> None:
    """As contexts begin in training. The miniature's model reads 64 tokens, and each byte is one."""
    ids = encoder.encode(TEXTS)
    assert [len(one) for one in ids] == [2, 8, 1, 64, 4, 3]
    assert {one[0] for one in ids} == {encoder.bos}
    assert encoder.tokenizer.decode(ids[3][1:]) == TEXTS[3][-63:]


def test_a_text_without_tokens_is_told(encoder: TextEncoder) -> None:
    without = TextEncoder(encoder.tokenizer, None, 64, 2)
    with pytest.raises(SourceError, match=r"text 3 has no tokens to probe: set tokenize\.prepend_bos to true"):
        without.encode(TEXTS)


def test_each_text_gives_the_activations_of_its_last_token_whatever_stands_beside_it(
    model: Any, encoder: TextEncoder
) -> None:
    points, ids = [HookPoint(0, HERE), HookPoint(0, THERE)], encoder.encode(TEXTS)
    found = read_last_tokens([model], points, ids, encoder.batch)
    for point in points:
        alone = [model.read(torch.tensor([one]), [point.name])[point.name][0, -1] for one in ids]
        torch.testing.assert_close(found[point], torch.stack(alone), atol=1e-5, rtol=1e-5)


@apart
def test_the_data_sets_that_the_plan_knows_are_those_of_the_package() -> None:
    assert known_datasets() == {name.replace(" ", "_") for name in import_package().DATASETS}


def reader(width: int) -> Dictionary:
    """A dictionary of relu latents: the i-th reads dimension i alone."""
    config, _ = parts("standard_new", width, 2 * width, normalize_activations="none")
    dictionary = Dictionary(config)
    with torch.no_grad():
        dictionary.geometry.get_parameter("W_enc")[:, :width] = torch.eye(width)
    return dictionary.eval()


def classes(package: Any, name: str) -> Tensor:
    return torch.from_numpy(package.utils_data.get_yvals(name)).float()


@apart
@pytest.mark.slow
def test_a_latent_that_knows_the_class_is_found_and_no_other_is_of_use() -> None:
    package, width = import_package(), 6
    generator = torch.Generator().manual_seed(0)
    y = classes(package, TRUTH)
    x = torch.rand(len(y), width, generator=generator)
    assert probe(package, reader(width), x, TRUTH, (1, 4))[1] == pytest.approx(0.5, abs=0.12)
    x[:, 3] += 2 * y
    assert probe(package, reader(width), x, TRUTH, (1, 4)) == {1: 1.0, 4: 1.0}


@apart
@pytest.mark.slow
def test_the_auc_of_one_latent_is_that_of_its_ranks() -> None:
    """A probe of one latent sorts texts as the latent does: Mann and Whitney's count of pairs, over the test half."""
    package, width = import_package(), 6
    y = classes(package, TRUTH)
    x = torch.rand(len(y), width, generator=torch.Generator().manual_seed(1))
    x[:, 2] += 0.4 * y
    (found,) = probe(package, reader(width), x, TRUTH, (1,)).values()
    size = len(y)
    _, test = package.utils_data.get_train_test_indices(
        y.numpy(), min(size - 100, 1024), size - min(size - 100, 1024) - 1
    )
    codes, classed = x[test, 2].numpy(), y[test].numpy()
    pairs = codes[classed == 1][:, None] - codes[classed == 0][None]
    assert found == pytest.approx(np.mean(pairs > 0) + np.mean(pairs == 0) / 2, abs=1e-9)
