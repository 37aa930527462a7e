"""Files of vectors, as other tools write them."""

from pathlib import Path

import numpy as np
import torch
import zarr
from safetensors.torch import save_file
from torch import Tensor


def made_vectors(count: int = 6000, width: int = 16, seed: int = 0) -> Tensor:
    """Sums of a few of 64 directions, with a little noise: what a dictionary can learn, of no language."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(64, width, generator=generator), dim=1)
    amounts = (torch.rand(count, 64, generator=generator) < 0.05) * (1 + torch.rand(count, 64, generator=generator))
    return amounts @ directions + 0.01 * torch.randn(count, width, generator=generator)


def write_folder(folder: Path, vectors: Tensor, cuts: tuple[int, ...], name: str = "x") -> Path:
    """A folder of safetensors files with vectors up to each cut, and the rest."""
    folder.mkdir(parents=True)
    for number, part in enumerate(vectors.tensor_split(cuts)):
        save_file({name: part.contiguous()}, folder / f"{number}.safetensors")
    return folder


def write_zarr(path: Path, vectors: Tensor, *, version: int = 3, chunk: int = 100) -> Path:
    """A Zarr array with chunks of so many vectors or contexts."""
    array = np.asarray(vectors)
    chunks = (min(chunk, len(array)), *array.shape[1:])
    made = zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=chunks, zarr_format=version)  # pyright: ignore
    made[:] = array
    return path
