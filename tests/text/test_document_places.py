"""Documents are named, and each token has its place in its document, however documents are packed."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from lmsae.text.document_places import DOCUMENTS, SplitDocuments
from lmsae.text.documents import Document
from lmsae.text.encoding import Encoder, Vocabulary
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokenizing import TextSource, tokenize
from lmsae.text.tokens import Split, open_tokens

WORDS = ["the text", "a much longer text of the language model, which fills several contexts " * 4, "short"]


def sources(count: int) -> list[TextSource]:
    """Two texts of documents that say their own names, of many lengths."""
    made = []
    for source in ("one", "two"):
        documents = [Document(f"{n}.txt", f"{source} {n} {WORDS[n % 3]} {n}") for n in range(count)]
        made.append(TextSource(documents, source, 0.5))
    return made


@pytest.mark.parametrize("packing", ["stream", "document"])
@pytest.mark.parametrize("prepend_bos", [True, False])
@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_token_is_found_in_its_document(
    packing: str, prepend_bos: bool, texts: int, split: Split, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = {"packing": packing, "prepend_bos": prepend_bos, "context_size": 12, "calibration_tokens": 24}
    config = TokenizeConfig.model_validate({**settings, "held_out_fraction": 0.4})
    encoder = Encoder(tokenizer, Vocabulary.from_tokenizer(tokenizer), config)
    tokenize(sources(40)[:texts], encoder, tmp_path)
    tokens = open_tokens(tmp_path)
    ids = getattr(tokens, split)[:]
    contexts, positions = np.divmod(np.arange(ids.size), 12)
    seen = positions >= prepend_bos
    contexts, positions = contexts[seen], positions[seen]
    names, places = SplitDocuments(tokens, split, tmp_path, has_bos=prepend_bos).place(contexts, positions)
    of_source = {source.name: {d.name: d for d in source.documents} for source in sources(40)}
    for context, position, name, place in zip(contexts, positions, names.to_pylist(), places, strict=True):
        source, _, own = name.rpartition(": ")
        assert bool(source) == (texts == 2)
        text = of_source[source or "one"][own].text  # pyright: ignore[reportAttributeAccessIssue]
        document = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = document if packing == "document" else [0, *document]
        assert whole[place] == ids[context, position]


def test_the_file_names_no_document_that_no_context_holds(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = TokenizeConfig(context_size=12, calibration_tokens=24, tokens=120, held_out_tokens=60)
    encoder = Encoder(tokenizer, Vocabulary.from_tokenizer(tokenizer), config)
    tokenize(sources(60), encoder, tmp_path)
    tokens, table = open_tokens(tmp_path), pq.read_table(tmp_path / DOCUMENTS).to_pylist()
    held: set[tuple[str, int]] = {
        (split, int(index))
        for split in ("train", "held_out")
        for index in np.unique(getattr(tokens, f"{split}_documents")[:])
    }
    assert {(row["split"], row["document"]) for row in table} == held
    assert {row["source"] for row in table} == {"one", "two"}


def test_documents_that_take_turns_are_counted_apart() -> None:
    from lmsae.text.document_places import _carry

    indices = np.array([[0, 0, 0], [5, 5, 5], [0, 1, 1], [5, 6, 6], [1, 1, 1], [1, 1, 2]])
    assert list(_carry(indices, has_bos=False)) == [0, 0, 3, 3, 2, 5]
    assert list(_carry(indices, has_bos=True)) == [0, 0, 2, 2, 2, 4]
