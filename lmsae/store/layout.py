"""The layout of the activations of one hook point on disk, and its size in bytes. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

StoreDtype = Literal["float16", "bfloat16", "float32", "int8"]


class StoredFormat(NamedTuple):
    """The array on disk: its Zarr dtype, the bytes of an item, and the items of a token beside its values."""

    zarr_dtype: str
    item_bytes: int
    extra_items: int = 0


STORED_FORMATS: dict[StoreDtype, StoredFormat] = {
    "float16": StoredFormat("float16", 2),
    "bfloat16": StoredFormat("uint16", 2),  # Zarr 3.1 has no bfloat16: these are its 16 bits, and `dtype` tells
    "float32": StoredFormat("float32", 4),
    "int8": StoredFormat("int8", 1, extra_items=4),  # behind the values of a token the bytes of its scale, a float32
}
CHECKSUM_BYTES = 4
NORM_BYTES = 4
SMALLER = "ask for fewer tokens, store 16 or 8 bits a value (activations.dtype=bfloat16 or int8)"
"""Ways to a smaller store, for a user whose disk cannot hold this one."""
INDEX_ENTRY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of a store, and its cuts: contexts > shards (files) > chunks (the unit of a read).

    A chunk is whole contexts, about `target_chunk_tokens` tokens. That is small enough for random chunks to mix well,
    and large enough to read them at nearly the disk's sequential speed. A shard is whole chunks, at most
    `target_shard_bytes` unless one chunk is larger. So there are few files, and a killed writer loses little.
    """

    contexts: int
    context_size: int
    width: int
    dtype: StoreDtype
    target_chunk_tokens: int = 1024
    target_shard_bytes: int = 128 << 20

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the activations: (contexts, context_size, width)."""
        return self.contexts, self.context_size, self.width

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """The shape of the array on disk: (contexts, context_size, items of a token)."""
        return self.contexts, self.context_size, self.width + STORED_FORMATS[self.dtype].extra_items

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's activation on disk and in the buffers of a reader."""
        return self.stored_shape[2] * STORED_FORMATS[self.dtype].item_bytes

    @property
    def chunk_contexts(self) -> int:
        """Contexts in a chunk."""
        return max(1, self.target_chunk_tokens // self.context_size)

    @property
    def chunk_tokens(self) -> int:
        """Tokens in a chunk."""
        return self.chunk_contexts * self.context_size

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk's activations, without its checksum."""
        return self.chunk_tokens * self.token_bytes

    @property
    def chunks(self) -> int:
        """Chunks with any context. The last may be padded with zeros."""
        return -(-self.contexts // self.chunk_contexts)

    @property
    def shard_chunks(self) -> int:
        """Chunks in a shard."""
        return max(1, min(self.target_shard_bytes // self.chunk_bytes, self.chunks))

    @property
    def shard_contexts(self) -> int:
        """Contexts in a shard."""
        return self.shard_chunks * self.chunk_contexts

    @property
    def shards(self) -> int:
        """Shards, which are the files of activations. The last may be shorter."""
        return -(-self.chunks // self.shard_chunks)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of each shard: the location of each chunk, and a checksum."""
        return self.shard_chunks * INDEX_ENTRY_BYTES + CHECKSUM_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of all shards on disk, checksums and indexes included."""
        return self.chunks * (self.chunk_bytes + CHECKSUM_BYTES) + self.shards * self.index_bytes

    @property
    def norms_nbytes(self) -> int:
        """Bytes of the tokens' norms, which lie beside the activations, one file for each shard."""
        return self.shards * (self.shard_contexts * self.context_size * NORM_BYTES + CHECKSUM_BYTES)
