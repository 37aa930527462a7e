"""Random weights for any geometry, and what every geometry must hold to."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmsae import geometry
from lmsae.geometry.config import GeometryConfig, Widths
from lmsae.geometry.geometry import Affine, Geometry


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(
    config: GeometryConfig,
    reads: Sequence[int],
    writes: Sequence[int],
    d_sae: int,
    *,
    encoder_bias: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Geometry:
    """A geometry with random weights: parameters of the same name and shape are equal in all geometries."""
    made = geometry.build(
        config, Widths(reads=tuple(reads), writes=tuple(writes)), d_sae, encoder_bias=encoder_bias
    ).to(dtype)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(sum(name.encode())), dtype=dtype))
    return made


def weights(module: Geometry) -> dict[str, np.ndarray]:
    """All parameters by name, as NumPy arrays."""
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def side_by_side(maps: Sequence[Affine]) -> Affine:
    """Matrices of several hook points as one map, which does not mix them."""
    return Affine(
        torch.cat([one.shift for one in maps]),
        torch.block_diag(*(one.scale for one in maps)),
        torch.block_diag(*(one.inverse for one in maps)),
    )


def assert_close(found: Tensor, wanted: np.ndarray | Tensor) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), rtol=1e-12, atol=1e-12)


def assert_only_chosen_write(module: Geometry, chosen: Tensor | slice, x: Tensor) -> None:
    """The output of the chosen latents alone is the reconstruction with all other codes 0, less `base`."""
    codes = noise(*x.shape[:-1], module.latents, seed=7)
    alone = torch.zeros_like(codes)
    alone[..., chosen] = codes[..., chosen]
    wanted = module.decode(alone, x) - module.base(x)
    assert_close(module.write(codes[..., chosen], chosen, x), wanted.detach())


def assert_all_parameters_learn(module: Geometry, x: Tensor) -> None:
    """Each parameter's gradient is finite and not 0."""
    module.decode(module.encode(x).relu(), x).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def assert_norms_fold_exactly(module: Geometry, x: Tensor) -> None:
    """Codes are multiplied by the norms, and nothing else changes."""
    norms = module.norms().detach()
    pre = module.encode(x).detach()
    reconstruction = module.decode(pre, x).detach()
    module.fold_norms()
    assert_close(module.norms(), torch.ones_like(norms))
    assert_close(module.encode(x), pre * norms)
    assert_close(module.decode(pre * norms, x), reconstruction)
