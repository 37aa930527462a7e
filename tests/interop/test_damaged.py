"""Damaged and odd folders of dictionaries, ours and those of others: each is refused by one error that names a file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import FolderError
from lmsae.interop import dictionary_learning, openmoss, saelens, sparsify
from tests.interop import test_dictionary_learning, test_openmoss, test_sparsify
from tests.interop.peers import exported, made_as, rewritten

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Format:
    """A kind of folder: how a whole one is written and read, its files, and what its config must say."""

    write: Callable[[Path], object]
    load: Callable[[Path], Dictionary]
    config: str
    weights: str
    fields: tuple[str, ...]
    """The fields of its config that are needed; a dot stands between levels."""
    sizes: tuple[str, ...]
    """The fields of its config that the weights' shapes must agree with."""

    def read_weights(self, folder: Path) -> Weights:
        return torch.load(folder / self.weights) if self.pickled else load_file(folder / self.weights)

    def write_weights(self, folder: Path, weights: Weights) -> None:
        (torch.save if self.pickled else save_file)(weights, folder / self.weights)

    @property
    def pickled(self) -> bool:
        return self.weights.endswith(".pt")


FORMATS = {
    "lmsae": Format(
        lambda folder: made_as("batchtopk").save(folder),
        Dictionary.load,
        "dictionary.json",
        "dictionary.safetensors",
        ("widths", "widths.reads", "d_sae", "geometry", "act_fn", "act_fn.k"),
        ("d_sae",),
    ),
    "saelens": Format(
        lambda folder: rewritten(exported(made_as("topk"), folder)),
        saelens.load,
        "cfg.json",
        "sae_weights.safetensors",
        ("architecture", "d_in", "d_sae", "k", "metadata", "metadata.sae_lens_version"),
        ("d_in", "d_sae"),
    ),
    "dictionary_learning": Format(
        lambda folder: test_dictionary_learning.written(folder, "BatchTopKSAE"),
        dictionary_learning.load,
        "config.json",
        "ae.pt",
        ("trainer", "trainer.dict_class"),
        ("trainer.activation_dim", "trainer.dict_size"),
    ),
    "sparsify": Format(
        test_sparsify.written,
        sparsify.load,
        "cfg.json",
        "sae.safetensors",
        ("d_in", "k"),
        ("d_in", "num_latents"),
    ),
    "openmoss": Format(
        test_openmoss.written,
        openmoss.load,
        "config.json",
        "sae_weights.safetensors",
        ("sae_type", "d_model", "act_fn", "norm_activation", "hook_point_in", "hook_point_out"),
        ("d_model",),
    ),
}
EVERY = pytest.mark.parametrize("kind", FORMATS)
FIELDS = [(kind, field) for kind, known in FORMATS.items() for field in known.fields]
NO_JSON = {
    "cut off": b"{",
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "text": b'"d_in"',
    "no JSON": b"d_in: 6",
    "not UTF-8": b'{"d_in": "\xff\xfe"}',
    "with a byte order mark": b"\xef\xbb\xbf{}",
    "nested deeply": b"[" * 10_000 + b"]" * 10_000,
    "a field nested deeply": b'{"d_in":' * 10_000 + b"1" + b"}" * 10_000,
    "a number of many digits": b'{"d_in": ' + b"9" * 10_000 + b"}",
}
ODD_VALUES = [None, True, "dev", "", [], [[]], {}, -1, 0, 1.5, float("nan"), float("inf"), 10**12, 10**30, ["a", 1]]


def whole(kind: str, folder: Path) -> Format:
    FORMATS[kind].write(folder)
    return FORMATS[kind]


def change_config(file: Path, field: str, *value: Any) -> None:
    """Give a field this value, or delete it."""
    config = json.loads(file.read_text())
    *above, name = field.split(".")
    place = config
    for level in above:
        place = place[level]
    place.pop(name, None)
    if value:
        place[name] = value[0]
    file.write_text(json.dumps(config))


def assert_refused(kind: Format, folder: Path, said: str) -> str:
    """The folder is refused, and the message says so much."""
    with pytest.raises(FolderError) as caught:
        kind.load(folder)
    assert str(folder) in str(caught.value)
    assert said in str(caught.value)
    return str(caught.value)


@EVERY
def test_a_whole_folder_is_read(tmp_path: Path, kind: str) -> None:
    assert whole(kind, tmp_path).load(tmp_path).config.d_sae > 0


@pytest.mark.parametrize("damage", NO_JSON)
@EVERY
def test_a_config_that_is_no_object_of_json_is_refused(tmp_path: Path, kind: str, damage: str) -> None:
    known = whole(kind, tmp_path)
    (tmp_path / known.config).write_bytes(NO_JSON[damage])
    assert_refused(known, tmp_path, known.config)


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_that_is_missing_is_named(tmp_path: Path, kind: str, field: str) -> None:
    known = whole(kind, tmp_path)
    change_config(tmp_path / known.config, field)
    said = assert_refused(known, tmp_path, "")
    assert field.split(".")[-1] in said or "older than SAELens" in said


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_of_any_value_is_read_or_refused_by_the_one_error(tmp_path: Path, kind: str, field: str) -> None:
    known = whole(kind, tmp_path)
    before, refused = (tmp_path / known.config).read_bytes(), []
    for value in ODD_VALUES:
        (tmp_path / known.config).write_bytes(before)
        change_config(tmp_path / known.config, field, value)
        try:
            known.load(tmp_path)
        except FolderError as error:
            refused.append(str(error))
    assert all(str(tmp_path) in said for said in refused)
    assert len(refused) >= len(ODD_VALUES) - 3, "k of many latents, and hook points of any name, are read"


@pytest.mark.parametrize(("kind", "field"), [(kind, size) for kind, known in FORMATS.items() for size in known.sizes])
def test_a_size_that_the_weights_have_not_is_refused_before_memory_is_taken(
    tmp_path: Path, kind: str, field: str
) -> None:
    known = whole(kind, tmp_path)
    for size in (10**12, 10**18, 5):
        change_config(tmp_path / known.config, field, size)
        if size != 10**18 or kind != "lmsae":
            assert f"{size}" in assert_refused(known, tmp_path, known.weights)
        else:
            assert_refused(known, tmp_path, "describes no dictionary")


@EVERY
def test_files_that_are_missing_or_folders_are_named(tmp_path: Path, kind: str) -> None:
    known = whole(kind, tmp_path)
    for name in (known.weights, known.config):
        (tmp_path / name).unlink()
        assert_refused(known, tmp_path, f"{name}: there is no such file")
        (tmp_path / name).mkdir()
        assert_refused(known, tmp_path, f"{name}' cannot be read")
    with pytest.raises(FolderError, match=r"a\\x00b.*cannot be read"):
        known.load(tmp_path / "a\0b")


@EVERY
def test_weights_that_are_cut_off_are_refused(tmp_path: Path, kind: str) -> None:
    known = whole(kind, tmp_path)
    written = (tmp_path / known.weights).read_bytes()
    for length in (0, 1, 8, 9, 100, len(written) // 2, len(written) - 1):
        (tmp_path / known.weights).write_bytes(written[:length])
        assert_refused(known, tmp_path, known.weights)
    for other in (b"\xff" * len(written), written[::-1], b"{}", b'{"d_in": 6}' * 100):
        (tmp_path / known.weights).write_bytes(other)
        assert_refused(known, tmp_path, known.weights)


DAMAGES: dict[str, tuple[Callable[[Tensor], Tensor | None], str]] = {
    "without it": (lambda weight: None, "has the weights"),
    "NaN": (lambda weight: weight.clone().index_fill_(0, torch.tensor([0]), torch.nan), "NaN or infinity"),
    "infinity": (lambda weight: torch.full_like(weight, -torch.inf), "NaN or infinity"),
    "too large for float32": (lambda weight: torch.full_like(weight.double(), 1e300), "NaN or infinity"),
    "whole numbers": (lambda weight: weight.to(torch.int32), "wanted: floats"),
    "bool": (lambda weight: weight > 0, "wanted: floats"),
    "bytes": (lambda weight: weight.to(torch.uint8), "wanted: floats"),
    "one more": (lambda weight: torch.cat([weight, weight[:1]]), "wanted: "),
    "none": (lambda weight: weight[:0], "wanted: "),
    "another dimension": (lambda weight: weight[None].contiguous(), "wanted: "),
    "a single number": (lambda weight: weight.flatten()[0].clone(), "wanted: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
@EVERY
def test_each_weight_of_other_shape_type_or_values_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    known, (change, said) = whole(kind, tmp_path), DAMAGES[damage]
    before = known.read_weights(tmp_path)
    for name, weight in before.items():
        if weight.ndim == 0 or (kind == "lmsae" and damage == "too large for float32"):
            continue  # ours are read as they were written
        changed = change(weight.contiguous())
        after = {**before, name: changed} if changed is not None else {k: v for k, v in before.items() if k != name}
        known.write_weights(tmp_path, {key: value for key, value in after.items() if value is not None})
        assert_refused(known, tmp_path, known.weights)
        if changed is None or "wanted: " not in said or weight.ndim == 2:
            assert_refused(known, tmp_path, said)


def test_weights_of_two_dictionaries_are_told_by_their_shapes(tmp_path: Path) -> None:
    known = whole("dictionary_learning", tmp_path)
    weights = known.read_weights(tmp_path)
    known.write_weights(tmp_path, {**weights, "decoder.weight": torch.ones(5, 20)})
    said = assert_refused(known, tmp_path, "decoder.weight is 5 x 20; wanted: 6 x 20 (d_in x d_sae)")
    assert "belong to two dictionaries" in said


@pytest.mark.parametrize("odd", [0, -3, 2.5, True])
def test_a_k_in_the_weights_that_is_no_count_is_refused(tmp_path: Path, odd: float) -> None:
    known = whole("dictionary_learning", tmp_path)
    known.write_weights(tmp_path, {**known.read_weights(tmp_path), "k": torch.tensor(odd)})
    assert_refused(known, tmp_path, "k is tensor")


def test_a_pickle_of_tensors_that_are_none_or_hold_nothing_is_refused(tmp_path: Path) -> None:
    known = whole("dictionary_learning", tmp_path)
    weights = known.read_weights(tmp_path)
    places = torch.zeros(1).expand(20, 6)  # 120 places of one value
    for odd in (None, [1.0], places, torch.ones(20, 6).to_sparse(), torch.ones(20, 6, device="meta")):
        torch.save({**weights, "encoder.weight": odd}, tmp_path / known.weights)
        assert_refused(known, tmp_path, "encoder.weight: wanted a plain tensor")
    torch.save([1, 2], tmp_path / known.weights)
    assert_refused(known, tmp_path, "holds a list; wanted: a state_dict()")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (None, "older than SAELens 6"),
        ("dev", "is 'dev'; wanted: the version that wrote it"),
        ("v6", "is 'v6'; wanted"),
        ("5.1", "older than SAELens 6"),
        (6, "sae_lens_version is 6; wanted: a valid string"),
    ],
)
def test_a_version_that_tells_no_layout_is_refused(tmp_path: Path, version: object, said: str) -> None:
    known = whole("saelens", tmp_path)
    change_config(tmp_path / "cfg.json", "metadata.sae_lens_version", version)
    assert_refused(known, tmp_path, said)


def test_a_release_candidate_and_metadata_of_null_are_known(tmp_path: Path) -> None:
    known = whole("saelens", tmp_path)
    change_config(tmp_path / "cfg.json", "metadata.sae_lens_version", "6.0.0rc1")
    assert known.load(tmp_path).config.act_fn.kind == "topk"
    change_config(tmp_path / "cfg.json", "metadata", None)
    assert_refused(known, tmp_path, "older than SAELens 6")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths.reads", [7]),
        ("d_sae", 12),
        ("act_fn", {"kind": "relu"}),
        ("geometry.apply_b_dec_to_input", False),
        ("normalize_activations", "whiten"),
    ],
)
def test_our_own_config_in_a_folder_of_saelens_must_agree_with_the_fields_beside_it(
    tmp_path: Path, field: str, value: object
) -> None:
    exported(made_as("batchtopk"), tmp_path)
    change_config(tmp_path / "cfg.json", f"metadata.lmsae_dictionary.{field}", value)
    assert_refused(FORMATS["saelens"], tmp_path, "metadata.lmsae_dictionary describes another dictionary")


def test_groups_that_do_not_divide_the_latents_are_refused_by_the_config(tmp_path: Path) -> None:
    test_sparsify.written(tmp_path, activation="groupmax", k=7)
    assert_refused(FORMATS["sparsify"], tmp_path, "cfg.json: groupmax needs k equal groups, but k = 7 does not divide")
