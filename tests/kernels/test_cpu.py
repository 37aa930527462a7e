"""Numba's kernels against torch and float64."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.cpu.threads import share_among_threads
from lmsae.kernels.entries import Entries

ROWS = 37
DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [1, 7, 64, 1000, 2048]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def strange(width: int) -> Tensor:
    """Values that are equal, of both signs, zeros of both signs, infinite or next to one another."""
    chosen = torch.tensor([0.0, -0.0, 1.0, 1.0, -1.0, torch.inf, -torch.inf, 1e-45, -1e-45, 1.0000001, 3e38, -3e38])
    return chosen[torch.randint(len(chosen), (ROWS, width), generator=torch.Generator().manual_seed(0))]


def mask(width: int, share: float) -> Tensor:
    return torch.rand(ROWS, width, generator=torch.Generator().manual_seed(width)) < share


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_largest_of_each_row_are_those_of_a_sort(width: int, dtype: torch.dtype) -> None:
    for values in (random(ROWS, width, dtype=dtype), strange(width).to(dtype)):
        for k in {1, min(5, width), min(32, width), max(1, width - 1), width}:
            columns, at = cpu_kernels.find_largest_of_rows(values, k)
            assert torch.equal(at, values.gather(1, columns))
            assert (columns.sort(1).values.diff(dim=1) > 0).all()
            found = values.gather(1, columns).sort(1, descending=True).values
            assert torch.equal(found, values.sort(1, descending=True).values[:, :k])


NEGATIVE_NAN = [
    torch.tensor([-0x400000], dtype=torch.int32).view(torch.float32),  # what processors make of inf - inf
    torch.tensor([-0x40], dtype=torch.int16).view(torch.bfloat16),
]


@pytest.mark.parametrize("number", [torch.tensor([torch.nan]), *NEGATIVE_NAN], ids=str)
def test_what_is_no_number_is_above_all_whatever_its_sign(number: Tensor) -> None:
    values = random(ROWS, 300, dtype=number.dtype)
    values[:, 7:8], values[:, 9] = number, torch.inf
    assert torch.equal(values[:, 7].signbit(), number.signbit().expand(ROWS))
    assert (cpu_kernels.find_largest_of_rows(values, 1)[0] == 7).all()
    assert cpu_kernels.find_largest(values[0], 2).tolist() == [7, 9]
    assert (cpu_kernels.count_above(values, torch.full((300,), torch.inf)) == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_values_above_a_floor_are_those_of_a_comparison(width: int, dtype: torch.dtype) -> None:
    for values in (random(ROWS, width, dtype=dtype), strange(width).to(dtype)):
        for floor in (torch.zeros(width), -torch.zeros(width), random(width), strange(width)[0]):
            above = values > floor
            counts = cpu_kernels.count_above(values, floor)
            assert torch.equal(counts, above.sum(1))
            starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            assert torch.equal(cpu_kernels.find_above(values, floor, starts), above.nonzero()[:, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_of_all_are_those_of_a_stable_sort(dtype: torch.dtype) -> None:
    for values in (random(1000, dtype=dtype), strange(1000)[0].to(dtype) + 0.0):
        for count in (1, 10, 999, 1000):
            by_size = values.sort(descending=True, stable=True).indices
            assert torch.equal(cpu_kernels.find_largest(values, count), by_size[:count].sort().values)


@pytest.mark.parametrize("entries", [0, 1, 5000])
def test_entries_are_sorted_by_column_as_in_a_stable_sort(entries: int) -> None:
    columns = torch.randint(50, (entries,), generator=torch.Generator().manual_seed(0))
    starts, rows, order = cpu_kernels.sort_by_column(columns, 60, torch.arange(entries) // 7)
    assert torch.equal(order, columns.sort(stable=True).indices)
    assert torch.equal(rows, order // 7)
    assert torch.equal(starts.diff(), columns.bincount(minlength=60))
    assert starts[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_values_at_entries_are_those_of_an_index(share: float, dtype: torch.dtype) -> None:
    values, chosen = random(ROWS, 50, dtype=dtype), mask(50, share)
    entries = Entries.from_mask(chosen)
    assert torch.equal(cpu_kernels.gather(values, entries.starts, entries.latents), values[chosen])


def test_columns_with_a_value_are_those_of_the_dense_matrix() -> None:
    chosen = mask(50, 0.05)
    entries = Entries.from_mask(chosen)
    values = random(len(entries.latents)) * (torch.arange(len(entries.latents)) % 3 > 0)
    found = cpu_kernels.find_nonzero_columns(values, entries.latents, 50)
    assert torch.equal(found, (entries.to_dense(values) != 0).any(0))
    assert found.any()
    assert not found.all()


@pytest.mark.parametrize("width", [1, 5, 16, 700])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_sums_and_products_at_entries_are_those_of_dense_products_in_float64(share: float, width: int) -> None:
    entries = Entries.from_mask(mask(50, share))
    values, rows, x = random(len(entries.latents)), random(50, width), random(ROWS, width)
    arguments = entries.starts, entries.latents
    dense = entries.to_dense(values).double() @ rows.double()
    sums = cpu_kernels.sum_bags(*arguments, values, rows)
    torch.testing.assert_close(sums.double(), dense, rtol=1e-5, atol=1e-5)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    shuffled = torch.empty_like(values).index_copy_(0, order, values)
    sums = cpu_kernels.sum_bags(*arguments, shuffled, rows, order)
    torch.testing.assert_close(sums.double(), dense, rtol=1e-5, atol=1e-5)
    dots = cpu_kernels.dot_entries(*arguments, x, rows)
    wanted = (x.double() @ rows.double().T)[entries.token_index, entries.latents]
    torch.testing.assert_close(dots.double(), wanted, rtol=1e-5, atol=1e-5)


def test_any_number_of_threads_gives_the_same_bytes(request: pytest.FixtureRequest) -> None:
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    values, x, floor = random(500, 1000), random(500, 64), torch.ones(1000)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        entries = Entries.find_above(values.relu() * (values > 1.5), floor)
        assert entries is not None
        at = cpu_kernels.gather(values, entries.starts, entries.latents)
        sums = cpu_kernels.sum_bags(entries.starts, entries.latents, at, random(1000, 64))
        dots = cpu_kernels.dot_entries(entries.starts, entries.latents, x, random(1000, 64))
        results.append([*cpu_kernels.find_largest_of_rows(values, 16), entries.starts, entries.latents, at, sums, dots])
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_a_failure_in_another_thread_is_not_lost(request: pytest.FixtureRequest) -> None:
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(2)

    def fail_at_the_end(start: int, stop: int) -> None:
        if stop == 1000:
            raise IndexError(start)

    with pytest.raises(IndexError, match="937"):
        share_among_threads(1000, 1 << 20, fail_at_the_end)


FORKED = """
import os, torch
from lmsae.kernels import cpu as cpu_kernels
from lmsae.kernels.cpu.threads import share_among_threads
torch.set_num_threads(2)
values = torch.arange(1 << 17).float().view(-1, 1 << 10)
assert (cpu_kernels.find_largest_of_rows(values, 1)[0] == 1023).all()
child = os.fork()
if not child:
    os._exit(int((cpu_kernels.find_largest_of_rows(values, 1)[0] != 1023).any()))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_forked_process_has_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=True, timeout=120)


@pytest.mark.slow
def test_machine_code_need_not_be_kept() -> None:
    code = "import torch; from lmsae.kernels import cpu; print(cpu.find_largest(torch.tensor([1.0, 3.0, 2.0]), 1))"
    environment = {**os.environ, "NUMBA_CACHE_DIR": "/proc/no/such/folder"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tensor([1])"


def every(dtype: torch.dtype) -> Tensor:
    """All finite values of a dtype of 16 bits, in rows of 128."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    return values[values.isfinite()].view(-1, 128)


@pytest.mark.parametrize(
    "rows", [every(torch.float16), every(torch.bfloat16), random(900, 7), strange(33)[:, 3:].contiguous()], ids=str
)
def test_rows_from_anywhere_are_those_of_torch_to_the_bit(rows: Tensor) -> None:
    for taken in (random(1000).argsort() % len(rows), torch.arange(3), torch.arange(0)):
        found = cpu_kernels.gather_as_float32(rows, taken)
        assert torch.equal(found.view(torch.int32), rows[taken].float().view(torch.int32))


@pytest.mark.parametrize("width", [1, 6, 64, 513])
def test_rows_of_whole_numbers_are_scaled_and_moved(width: int) -> None:
    """Also where the scale behind a row does not begin at a multiple of four bytes."""
    q = torch.randint(-127, 128, (500, width), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    scale, mean, std = random(500, 1).exp(), random(width), random(width + 1)[1:].exp()
    taken = random(700).argsort() % 500
    found = cpu_kernels.gather_scaled(torch.cat([q, scale.view(torch.int8)], 1), taken, mean, std)
    exact = mean.double() + std.double() * scale[taken].double() * q[taken].double()
    assert found.dtype == torch.float32
    size = mean.double().abs() + (exact - mean.double()).abs()
    assert ((found - exact).abs() <= 2**-22 * size).all()


def exact_losses(logits: Tensor, following: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    log_p, log_q = logits.double().log_softmax(-1), clean.double().log_softmax(-1)
    terms = (log_q.exp() * (log_q - log_p)).masked_fill(log_q == -torch.inf, 0.0)
    return -log_p.gather(1, following[:, None])[:, 0], terms.sum(-1)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scale", [1e-3, 3.0, 300.0])
def test_losses_of_logits_are_those_of_float64(width: int, dtype: torch.dtype, scale: float) -> None:
    clean = scale * random(ROWS, width)
    logits = (clean + 0.1 * scale * random(width, ROWS).T).to(dtype)
    clean, following = clean.to(dtype), torch.arange(ROWS) % width
    found, expected = cpu_kernels.losses_of_rows(logits, following, clean), exact_losses(logits, following, clean)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)
    assert torch.equal(cpu_kernels.losses_of_rows(logits, following)[0], found[0])


def test_a_model_has_no_divergence_from_itself_at_all() -> None:
    logits = 5 * random(ROWS, 1000)
    _, divergence = cpu_kernels.losses_of_rows(logits, torch.zeros(ROWS, dtype=torch.int64), logits.clone())
    assert (divergence == 0).all()


def test_logits_far_below_the_largest_and_of_minus_infinity_are_taken_as_they_are() -> None:
    clean = random(ROWS, 300)
    clean[:, 0], clean[:, 1], clean[:, 2] = 900.0, -1e30, -torch.inf
    logits = clean.flip(0).contiguous()
    following = torch.full((ROWS,), 3)
    for one, other in zip(
        cpu_kernels.losses_of_rows(logits, following, clean), exact_losses(logits, following, clean), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)
    impossible = random(ROWS, 300)
    impossible[:, 4] = -torch.inf
    cross_entropy, divergence = cpu_kernels.losses_of_rows(impossible, torch.full((ROWS,), 4), random(ROWS, 300))
    assert (cross_entropy == torch.inf).all()
    assert (divergence == torch.inf).all()


@pytest.mark.parametrize("number", [torch.nan, torch.inf, *NEGATIVE_NAN[:1]], ids=str)
def test_logits_that_are_no_numbers_give_none(number: Tensor | float) -> None:
    logits, clean, following = random(ROWS, 300), random(ROWS, 300), torch.zeros(ROWS, dtype=torch.int64)
    logits[0, 9:10] = clean[1, 9:10] = number
    cross_entropy, divergence = cpu_kernels.losses_of_rows(logits, following, clean)
    assert cross_entropy.isnan().nonzero().flatten().tolist() == [0, 1]
    assert divergence.isnan().nonzero().flatten().tolist() == [0, 1]


def test_losses_of_logits_are_the_same_to_the_bit_in_any_company() -> None:
    logits, clean = random(400, 700), 2 * random(700, 400).T.contiguous()
    following = torch.arange(400)
    whole = cpu_kernels.losses_of_rows(logits, following, clean)
    for start, stop in ((0, 1), (7, 300), (399, 400)):
        rows = slice(start, stop)
        part = cpu_kernels.losses_of_rows(logits[rows], following[rows], clean[rows])
        assert all(torch.equal(one, other[rows]) for one, other in zip(part, whole, strict=True))
