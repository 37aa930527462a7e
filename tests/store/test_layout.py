"""The shape of a store: chunks, shards, and bytes on the disk."""

from lmsae.store.layout import Layout


def test_chunks_are_whole_contexts_of_about_1024_tokens() -> None:
    assert Layout(100, 256, 768, "float16").chunk_contexts == 4
    assert Layout(100, 100, 768, "float16").chunk_contexts == 10
    assert Layout(100, 2048, 768, "float16").chunk_contexts == 1


def test_shards_are_at_most_128_mib_and_at_most_the_array() -> None:
    large = Layout(100_000, 256, 768, "float16")
    assert large.chunk_bytes == 1024 * 768 * 2
    assert large.shard_chunks == 85  # 85.3 chunks of 1.5 MiB in 128 MiB
    assert large.shards == 295  # 25,000 chunks
    assert Layout(10, 256, 768, "float16").shard_chunks == 3
    assert Layout(10, 8192, 16_384, "float32").shard_chunks == 1  # one chunk alone is larger


def test_bytes_on_disk_count_checksums_and_indexes() -> None:
    layout = Layout(10, 256, 768, "bfloat16")
    assert layout.nbytes == 3 * (1024 * 768 * 2 + 4) + (3 * 16 + 4)
