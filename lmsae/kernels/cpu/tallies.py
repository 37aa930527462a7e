"""Loops over the firings of latents: the tokens on which a code is not 0, latent by latent, in the order of the text.

The firings of latent i are those from starts[i] to starts[i + 1]. A firing has a slot, the number of its token among
all tokens read (context * context_size + position), and a value, its code. The size of a code is its absolute value.
No result depends on how latents are shared among threads.
"""

import numpy as np

from lmsae.kernels.cpu.threads import compile_loop, share_among_threads

NOBODY = -1
"""The slot, token or latent at a place that is not filled."""
Array = np.ndarray


def sum_sizes(starts: Array, values: Array) -> tuple[Array, Array]:
    """The sum of sizes of each latent's codes, float64, and the largest, float32; 0 where there is none."""
    sums, largest = np.zeros(len(starts) - 1), np.zeros(len(starts) - 1, np.float32)
    _share(starts, lambda first, last: _sum_sizes(starts, values, sums, largest, first, last))
    return sums, largest


def count_sizes(starts: Array, values: Array, largest: Array, bins: int) -> Array:
    """Firings by the size of the code: bins of equal width from 0 to the latent's largest, int64 (latents, bins)."""
    counts = np.zeros((len(starts) - 1, bins), np.int64)
    _share(starts, lambda first, last: _count_sizes(starts, values, largest, counts, first, last))
    return counts


def count_positions(starts: Array, slots: Array, bin_of_position: Array, bins: int) -> Array:
    """Firings by bin of positions, int64 (latents, bins). `bin_of_position` has the bin of each position."""
    counts = np.zeros((len(starts) - 1, bins), np.int64)
    _share(starts, lambda first, last: _count_positions(starts, slots, bin_of_position, counts, first, last))
    return counts


def find_peaks(starts: Array, slots: Array, values: Array, context_size: int, most: int) -> Array:
    """The firings with the largest codes, at most one in a context, int64 (latents, most): indices into `values`.

    The largest stand first, and of equal ones those that come first in the text. Behind them stands NOBODY.
    """
    found = np.full((len(starts) - 1, most), NOBODY, np.int64)
    if most:
        _share(starts, lambda first, last: _find_peaks(starts, slots, values, context_size, found, first, last))
    return found


def sample_bins(
    starts: Array, slots: Array, values: Array, largest: Array, bins: int, most: int, seed: int, latent: int, slot: int
) -> Array:
    """Sample firings of each bin of sizes, int64 (latents, bins, most): indices into `values`, the largest codes first.

    Bins are those of `count_sizes`. Of each bin those firings are taken whose random number is the smallest. It comes
    from seed, latent and slot and depends on nothing else. `latent` and `slot` are the numbers of the first of these
    latents and of the first slot.
    """
    found = np.full((len(starts) - 1, bins, most), NOBODY, np.int64)
    arrays = starts, slots, values, largest, np.uint64(seed), latent, slot, found
    if bins and most:
        _share(starts, lambda first, last: _sample_bins(*arrays, first, last))
    return found


def sum_by_token(
    starts: Array, slots: Array, values: Array, ids: Array, vocabulary: int, most: int
) -> tuple[Array, Array, Array]:
    """The tokens with the largest sums of sizes, their firings and their sums: (latents, most) each.

    `ids` are those of all slots. Of equal sums the smaller id stands first; behind them NOBODY.
    """
    latents = len(starts) - 1
    tokens, active = np.full((latents, most), NOBODY, np.int64), np.zeros((latents, most), np.int64)
    sums = np.zeros((latents, most))

    def work(first: int, last: int) -> None:
        scratch = np.zeros(vocabulary), np.zeros(vocabulary, np.int64), np.empty(vocabulary, np.int64)
        _sum_by_token(starts, slots, values, ids, tokens, active, sums, *scratch, first, last)

    if most:
        _share(starts, work)
    return tokens, active, sums


def find_companions(
    starts: Array, slots: Array, row_starts: Array, rows: Array, fired: Array, tokens: int, latent: int, most: int
) -> tuple[Array, Array]:
    """The latents with the largest phi coefficients, and those: (latents, most), float64. Behind them stands NOBODY.

    The latents that fire at slot s are rows[row_starts[s]:row_starts[s + 1]]; slots without any are not looked at.
    `fired` counts the firings of every latent in all rows, and `tokens` the tokens that rows were made of. Latents that
    never fire together are no companions, nor is one that always fires. Of equal coefficients the smaller latent stands
    first. `latent` is the number of the first of these latents.
    """
    found, phi = np.full((len(starts) - 1, most), NOBODY, np.int64), np.zeros((len(starts) - 1, most))
    counts = fired.astype(np.float64)
    deviations = np.sqrt(counts * (tokens - counts))

    # An unsigned index costs no look at its sign.
    where = slots.view(np.uint32), row_starts, rows.view(np.uint32)

    def work(first: int, last: int) -> None:
        count = np.zeros(len(fired), np.int32)
        _find_companions(starts, *where, fired, deviations, tokens, latent, found, phi, count, first, last)

    if most:
        pairs = len(slots) * (len(rows) // max(len(row_starts), 1) + 1)
        share_among_threads(len(starts) - 1, pairs, work)
    return found, phi


def read_windows(starts: Array, slots: Array, values: Array, of_latent: Array, begins: Array, offsets: Array) -> Array:
    """The codes of latents at windows of slots, float32 (offsets[-1],).

    Window i begins at slot begins[i], is of latent of_latent[i] (counted from 0), and its codes go from offsets[i] to
    offsets[i + 1].
    """
    codes = np.zeros(offsets[-1], np.float32)
    arrays = starts, slots, values, of_latent, begins, offsets, codes
    share_among_threads(len(begins), len(codes), lambda first, last: _read_windows(*arrays, first, last))
    return codes


def _share(starts, work) -> None:
    share_among_threads(len(starts) - 1, int(starts[-1]), work)


@compile_loop
def _sum_sizes(starts, values, sums, largest, first, last):
    for latent in range(first, last):
        total, top = 0.0, np.float32(0)
        for i in range(starts[latent], starts[latent + 1]):
            size = abs(values[i])
            total += np.float64(size)
            top = max(top, size)
        sums[latent], largest[latent] = total, top


@compile_loop
def _bin_of(size, largest, bins):
    """The bin of a size, in float64: exact, because sizes have 24 bits."""
    return min(np.int64(np.float64(size) * bins / np.float64(largest)), bins - 1)


@compile_loop
def _count_sizes(starts, values, largest, counts, first, last):
    for latent in range(first, last):
        for i in range(starts[latent], starts[latent + 1]):
            counts[latent, _bin_of(abs(values[i]), largest[latent], counts.shape[1])] += 1


@compile_loop
def _count_positions(starts, slots, bin_of_position, counts, first, last):
    for latent in range(first, last):
        for i in range(starts[latent], starts[latent + 1]):
            counts[latent, bin_of_position[slots[i] % bin_of_position.size]] += 1


@compile_loop
def _insert(found, count, values, index):
    """Insert a firing into those found, the largest sizes first, behind equal ones. Returns the new count."""
    size, at = abs(values[index]), count
    if at == found.size:
        if size <= abs(values[found[at - 1]]):
            return count
        at -= 1
    while at > 0 and abs(values[found[at - 1]]) < size:
        found[at] = found[at - 1]
        at -= 1
    found[at] = index
    return min(count + 1, found.size)


@compile_loop
def _find_peaks(starts, slots, values, context_size, found, first, last):
    for latent in range(first, last):
        count, i, end = 0, starts[latent], starts[latent + 1]
        while i < end:
            context, peak = slots[i] // context_size, i
            while i < end and slots[i] // context_size == context:
                if abs(values[i]) > abs(values[peak]):
                    peak = i
                i += 1
            count = _insert(found[latent], count, values, peak)


@compile_loop
def _mix(number):
    """The next number of SplitMix64 behind this one (Steele, Lea and Flood 2014)."""
    number = number + np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


@compile_loop
def _sample_bins(starts, slots, values, largest, seed, first_latent, first_slot, found, first, last):
    bins, most = found.shape[1], found.shape[2]
    ranks, counts = np.empty((bins, most), np.uint64), np.empty(bins, np.int64)
    for latent in range(first, last):
        counts[:] = 0
        of_latent = _mix(_mix(seed) ^ np.uint64(first_latent + latent))
        for i in range(starts[latent], starts[latent + 1]):
            in_bin = _bin_of(abs(values[i]), largest[latent], bins)
            rank, at = _mix(of_latent ^ np.uint64(first_slot + slots[i])), counts[in_bin]
            if at == most:
                if rank >= ranks[in_bin, at - 1]:
                    continue
                at -= 1
            else:
                counts[in_bin] += 1
            while at > 0 and ranks[in_bin, at - 1] > rank:
                ranks[in_bin, at] = ranks[in_bin, at - 1]
                found[latent, in_bin, at] = found[latent, in_bin, at - 1]
                at -= 1
            ranks[in_bin, at], found[latent, in_bin, at] = rank, i
        for in_bin in range(bins):
            _sort_by_size(found[latent, in_bin, : counts[in_bin]], values)


@compile_loop
def _sort_by_size(found, values):
    """Sort firings: the largest sizes first, and of equal ones those that come first in the text."""
    for i in range(1, found.size):
        index, at = found[i], i
        size = abs(values[index])
        while at > 0:
            before = abs(values[found[at - 1]])
            if before > size or (before == size and found[at - 1] < index):
                break
            found[at] = found[at - 1]
            at -= 1
        found[at] = index


@compile_loop
def _sum_by_token(starts, slots, values, ids, tokens, active, sums, total, count, touched, first, last):
    most = tokens.shape[1]
    for latent in range(first, last):
        seen = 0
        for i in range(starts[latent], starts[latent + 1]):
            token = np.int64(ids[slots[i]])
            if count[token] == 0:
                touched[seen] = token
                seen += 1
            count[token] += 1
            total[token] += np.float64(abs(values[i]))
        filled = 0
        for i in range(seen):
            token = touched[i]
            at = filled
            if at == most:
                if _stands_behind(total[token], token, sums[latent, at - 1], tokens[latent, at - 1]):
                    continue
                at -= 1
            else:
                filled += 1
            while at > 0 and not _stands_behind(total[token], token, sums[latent, at - 1], tokens[latent, at - 1]):
                tokens[latent, at], sums[latent, at] = tokens[latent, at - 1], sums[latent, at - 1]
                at -= 1
            tokens[latent, at], sums[latent, at] = token, total[token]
        for i in range(filled):
            active[latent, i] = count[tokens[latent, i]]
        for i in range(seen):
            count[touched[i]], total[touched[i]] = 0, 0.0


@compile_loop
def _stands_behind(value, number, other_value, other_number):
    """True if a value stands behind another one in an order: the largest first, of equal ones the smaller number."""
    return value < other_value or (value == other_value and number > other_number)


@compile_loop
def _find_companions(
    starts, slots, row_starts, rows, fired, deviations, tokens, first_latent, found, phi, count, first, last
):
    """Count without looking, then look at every latent or, where those are more than pairs, at the rows once more."""
    for latent in range(first, last):
        me, pairs = first_latent + latent, 0
        if deviations[me] == 0:
            continue
        for i in range(starts[latent], starts[latent + 1]):
            begin, end = row_starts[slots[i]], row_starts[slots[i] + 1]
            pairs += end - begin
            for j in range(begin, end):
                count[rows[j]] += 1
        count[me] = 0
        arrays = fired, deviations, tokens, me, found[latent], phi[latent], count
        filled = 0
        if pairs > count.size // 4:
            for other in range(count.size):
                if count[other] > 0:
                    filled = _insert_companion(*arrays, other, filled)
        else:
            for i in range(starts[latent], starts[latent + 1]):
                for j in range(row_starts[slots[i]], row_starts[slots[i] + 1]):
                    if count[rows[j]] > 0:
                        filled = _insert_companion(*arrays, np.int64(rows[j]), filled)


@compile_loop
def _insert_companion(fired, deviations, tokens, me, found, phi, count, other, filled):
    """Insert a latent among the companions found, unless they are filled with better ones, and forget its count.
    Returns how many there are."""
    together = np.int64(count[other])
    count[other] = 0
    if deviations[other] == 0:
        return filled
    both = np.float64(tokens * together - fired[me] * fired[other])
    value, at = both / (deviations[me] * deviations[other]), filled
    if at == found.size:
        if _stands_behind(value, other, phi[at - 1], found[at - 1]):
            return filled
        at -= 1
    while at > 0 and not _stands_behind(value, other, phi[at - 1], found[at - 1]):
        found[at], phi[at] = found[at - 1], phi[at - 1]
        at -= 1
    found[at], phi[at] = other, value
    return min(filled + 1, found.size)


@compile_loop
def _read_windows(starts, slots, values, of_latent, begins, offsets, codes, first, last):
    for window in range(first, last):
        low, end = starts[of_latent[window]], starts[of_latent[window] + 1]
        begin, length = begins[window], offsets[window + 1] - offsets[window]
        high = end
        while low < high:
            middle = (low + high) // 2
            if slots[middle] < begin:
                low = middle + 1
            else:
                high = middle
        while low < end and slots[low] < begin + length:
            codes[offsets[window] + slots[low] - begin] = values[low]
            low += 1
