"""The text that a user names, and the same text pinned to what it is when a sweep is planned."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from lmsae.config import Frozen
from lmsae.text.dividing import check_division

STDLIB = "builtin:python-stdlib"


class DatasetConfig(Frozen):
    """The text, as the user names it."""

    name: str = Field(
        default=STDLIB,
        min_length=1,
        description="The text. `builtin:python-stdlib` is the library of the running Python. `builtin:othello` makes "
        "random legal games, as token ids of Othello-GPT. Other names are a dataset of the Hugging Face hub "
        "(`owner/name`), a local file (.jsonl, .json, .parquet, .csv, .txt, .md), or a local folder. All files of a "
        "folder are of one kind. Tables are read as a dataset with splits; text files hold one document each. A "
        "mixture of several texts is written `0.7*NAME 0.3*NAME?split=test&messages_column=chat`. The weights are "
        "shares of the tokens. Columns of `dataset` after `?` hold for this text only; the others hold for all.",
    )
    subset: str | None = Field(default=None, description="Configuration of a hub dataset that has several.")
    split: str = Field(
        default="train",
        min_length=1,
        description="Split of a dataset to read. Held-out documents are chosen within it, by their names.",
    )
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of a hub dataset. Empty: its `main` at the time of planning.",
    )
    column: str = Field(default="text", min_length=1, description="Column that holds the text.")
    tokens_column: str | None = Field(
        default=None,
        description="Column that holds lists of token ids. If given, it is read instead of text, and nothing is "
        "tokenized.",
    )
    messages_column: str | None = Field(
        default=None,
        description="Column that holds conversations: lists of messages with a `role` and a `content`. If given, it is "
        "read instead of text, and the tokenizer's chat template writes the text (see tokenize.chat_tokens).",
    )
    divide_at: Annotated[str, AfterValidator(check_division)] | None = Field(
        default=None,
        description="Division of text files (.txt, .md) into documents. `blank_lines`: at blank lines. "
        "`2000 characters`: into pieces of at most so many characters, which end with a line or a word if possible. "
        "Anything else is a separator, such as `<|endoftext|>`; `\\n` in it is the end of a line. Empty: a file is a "
        "document.",
    )
    streaming: bool = Field(
        default=False,
        description="Read a dataset over the network as it is needed, instead of downloading it first. Reading stops "
        "once tokenize.tokens and tokenize.held_out_tokens are reached.",
    )
    documents: int | None = Field(
        default=None, ge=1, description="Largest number of documents to read, from the first on. Empty: all."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the games of builtin:othello.")

    @model_validator(mode="after")
    def _holds_one_kind(self) -> Self:
        if self.tokens_column is not None and self.messages_column is not None:
            raise ValueError("a text has either a tokens_column or a messages_column; leave one of them empty")
        return self

    @property
    def values_column(self) -> str:
        """The column that is read: of token ids, of messages, or of text."""
        return self.tokens_column or self.messages_column or self.column


class ResolvedDataset(DatasetConfig):
    """A text pinned to what it was when planned."""

    digest: str = Field(description="The text's identity: a digest of the documents or files, or the hub's commit.")

    def weighted(self) -> list[tuple[float, "ResolvedDataset"]]:
        """This text as a mixture of one, with the share 1."""
        return [(1.0, self)]


class WeightedDataset(Frozen):
    """A text of a mixture and its share of the tokens."""

    weight: float
    dataset: ResolvedDataset


class ResolvedMixture(Frozen):
    """Several texts, each pinned to what it was when planned. They are sorted, however the user wrote them."""

    name: str = Field(description="The mixture, written as in `dataset.name`.")
    sources: tuple[WeightedDataset, ...]

    def weighted(self) -> list[tuple[float, ResolvedDataset]]:
        """The texts with their shares, which add up to one."""
        return [(source.weight, source.dataset) for source in self.sources]
