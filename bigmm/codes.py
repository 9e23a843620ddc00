"""Integer codes of 64-bit integers among their sorted distinct values; compiled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]

#: Values whose range is at most this many times their number are coded by a table of bits.
_SPARSEST = 64
#: A table of this many bits fits into the first cache.
_SMALL_RANGE = 2**18
#: Slots of the hash table, which holds a quarter as many values.
_SLOTS = 2**18
_RADIX_BITS, _DIGITS = 11, 6
_RADIX = 2**_RADIX_BITS

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


def encode(values: Integers) -> tuple[Codes, Integers]:
    """Codes of integers, and their sorted distinct values.

    Parameters
    ----------
    values : (n,) int64

    Returns
    -------
    codes : (n,) int32
        ``levels[codes] == values``.
    levels : (q,) int64
    """
    if len(values) == 0:
        return np.zeros(0, np.int32), values
    low, high = int(values.min()), int(values.max())
    span = high - low + 1
    if span <= max(_SPARSEST * len(values), _SMALL_RANGE):
        return _encode_by_bits(values, low, span)
    seen, distinct = _encode_by_hash(values)
    if len(seen) < len(values):
        return _encode_by_radix(values, low)
    order = np.argsort(distinct)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[seen], distinct[order]


def merge_sorted(parts: Sequence[Integers]) -> tuple[Integers, list[Codes]]:
    """Distinct values of several sorted arrays without repeats, and the place of each array's values among them."""
    filled = [part for part in parts if len(part)]
    if len(filled) > 1:
        low, high = min(int(part[0]) for part in filled), max(int(part[-1]) for part in filled)
        if high - low < _SPARSEST * sum(map(len, filled)):
            codes, merged = _encode_by_bits(np.concatenate(parts), low, high - low + 1)
            return merged, np.split(codes, np.cumsum([len(part) for part in parts])[:-1])
    filled.sort(key=lambda part: int(part[0]))
    merged = _merged(filled) if filled else parts[0]
    return merged, [_places(part, merged, np.searchsorted(merged, part[:1])) for part in parts]


def _merged(parts: Sequence[Integers]) -> Integers:
    """The union; arrays that lie one after the other are only put together."""
    if len(parts) == 1:
        return parts[0]
    if all(one[-1] < other[0] for one, other in pairwise(parts)):
        return np.concatenate(parts)
    left, right = _merged(parts[: len(parts) // 2]), _merged(parts[len(parts) // 2 :])
    out = np.empty(len(left) + len(right), np.int64)
    out.resize(_merge(left, right, out), refcheck=False)
    return out


@_jit
def _merge(left: Integers, right: Integers, out: Integers) -> int:
    """Write the union of two sorted arrays, and return its length."""
    i = j = place = 0
    while i < len(left) and j < len(right):
        a, b = left[i], right[j]
        out[place] = min(a, b)
        i += a <= b
        j += b <= a
        place += 1
    for k in range(i, len(left)):
        out[place] = left[k]
        place += 1
    for k in range(j, len(right)):
        out[place] = right[k]
        place += 1
    return place


@_jit
def _places(part: Integers, merged: Integers, start: npt.NDArray[np.intp]) -> Codes:
    """Places of some sorted values among others; the first of them is known."""
    out = np.empty(len(part), np.int32)
    place = start[0] if len(start) else 0
    for i in range(len(part)):
        while merged[place] < part[i]:
            place += 1
        out[i] = place
    return out


@_jit
def popcount(word: np.uint64) -> Any:
    """Number of bits that are set; LLVM knows the idiom."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@_jit
def _encode_by_bits(values: Integers, low: int, span: int) -> tuple[Codes, Integers]:
    """One bit for every integer of the range; a value's code is the number of bits before its own."""
    one, six, low_bits = np.uint64(1), np.uint64(6), np.uint64(63)
    words = np.zeros((span >> 6) + 1, np.uint64)
    for r in range(len(values)):
        key = np.uint64(values[r] - low)
        words[key >> six] |= one << (key & low_bits)
    before = np.empty(len(words), np.int32)
    total: Any = 0
    for i in range(len(words)):
        before[i] = total
        total += np.int64(popcount(words[i]))
    levels = np.empty(total, np.int64)
    place = 0
    for i in range(len(words)):
        word = words[i]
        while word != np.uint64(0):
            bit = popcount((word & (~word + one)) - one)
            levels[place] = low + (i << 6) + np.int64(bit)
            place += 1
            word &= word - one
    codes = np.empty(len(values), np.int32)
    for r in range(len(values)):
        key = np.uint64(values[r] - low)
        mask = (one << (key & low_bits)) - one
        codes[r] = before[key >> six] + np.int32(popcount(words[key >> six] & mask))
    return codes, levels


@_jit
def _slot(key: np.int64, mask: np.uint64) -> Any:
    """Where to look first: the high half of a multiplication mixes all bits."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(32))) & mask


@_jit
def _encode_by_hash(values: Integers) -> tuple[Codes, Integers]:
    """Codes in the order of first sight, and the distinct values in that order; of a part of the rows if there are too many."""
    one, mask = np.uint64(1), np.uint64(_SLOTS - 1)
    table = np.full(_SLOTS, -1, np.int32)
    distinct = np.empty(_SLOTS // 4, np.int64)
    codes = np.empty(len(values), np.int32)
    count = 0
    code: Any = -1
    for r in range(len(values)):
        key = values[r]
        if code < 0 or key != values[r - 1]:
            slot = _slot(key, mask)
            while table[slot] >= 0 and distinct[table[slot]] != key:
                slot = (slot + one) & mask
            code = table[slot]
            if code < 0:
                if count == len(distinct):
                    return codes[:r], distinct
                code = count
                table[slot] = code
                distinct[count] = key
                count += 1
        codes[r] = code
    return codes, distinct[:count]


@_jit
def _encode_by_radix(values: Integers, low: int) -> tuple[Codes, Integers]:
    """Sort by digits, the last first, and number the distinct values."""
    n, digit = len(values), np.uint64(_RADIX - 1)
    counts = np.zeros((_DIGITS, _RADIX), np.int64)
    for r in range(n):
        key = np.uint64(values[r]) - np.uint64(low)
        for d in range(_DIGITS):
            counts[d, (key >> np.uint64(d * _RADIX_BITS)) & digit] += 1
    keys, rows = np.empty(n, np.uint64), np.empty(n, np.int32)
    for r in range(n):
        keys[r] = np.uint64(values[r]) - np.uint64(low)
        rows[r] = r
    keys_after, rows_after = np.empty(n, np.uint64), np.empty(n, np.int32)
    for d in range(_DIGITS):
        shift = np.uint64(d * _RADIX_BITS)
        if counts[d, (keys[0] >> shift) & digit] == n:
            continue
        start = 0
        for i in range(_RADIX):
            size = counts[d, i]
            counts[d, i] = start
            start += size
        for r in range(n):
            i = (keys[r] >> shift) & digit
            place = counts[d, i]
            counts[d, i] = place + 1
            keys_after[place] = keys[r]
            rows_after[place] = rows[r]
        keys, keys_after = keys_after, keys
        rows, rows_after = rows_after, rows
    codes, levels = np.empty(n, np.int32), np.empty(n, np.int64)
    count = 0
    for r in range(n):
        if r == 0 or keys[r] != keys[r - 1]:
            levels[count] = np.int64(keys[r] + np.uint64(low))
            count += 1
        codes[rows[r]] = count - 1
    return codes, levels[:count].copy()
