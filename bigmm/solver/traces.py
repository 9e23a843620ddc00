"""Compiled loops over leaves that the gradient needs: sums of G_j S^-1 G_j', by S^-1, dense or on S's pattern, or by L^-1.

As in `elimination`, each thread owns columns or runs of leaves, and sums do not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.elimination import inverse_factor, loop_part, parallel_loops
from bigmm.solver.layout import Index
from bigmm.solver.root_order import LeafEntries

#: Leaves in a run.
_RUN = 2**10
#: Columns of L^-1' that are looked up together; of 64, 128 and 256 never slower than a tenth above the fastest, from order 1142 to 13176.
PANEL = 128
#: Orders up to which a dense inverse is looked up leaf by leaf.
_CACHED = 800


@parallel_loops
def spherical_rows(indptr: Index, V: Array, inverse_T: Array, B: Array) -> None:
    """B_j becomes L_j^-T B_j = T^-1 V_j'B_j, in place: what B_j S^-1 B_j' adds to D_j^-1 is G_j S^-1 G_j' of these."""
    q, k = V.shape[:2]
    runs = -(-q // _RUN)
    for run in numba.prange(runs):
        M, old = np.empty((k, k)), np.empty(k)
        for j in range(q * run // runs, q * (run + 1) // runs):
            inverse_factor(inverse_T, V, j, M)
            for e in range(indptr[j], indptr[j + 1]):
                for a in range(k):
                    old[a] = B[e, a]
                for a in range(k):
                    total = 0.0
                    for b in range(a, k):
                        total += M[a, b] * old[b]
                    B[e, a] = total


@loop_part
def _add_products(row: Array, c: int, own: np.uint64, stop: np.uint64, indices: Index, G: Array, x: Array, out: Array) -> None:
    """Add to `out` (k, k) what the entry `own`, in root column c, gives with itself and those after it in its leaf.

    `row` is that of S^-1, `x` (k,) is room. Four components at a time stay in registers; where fewer are left, the last is
    summed again.
    """
    k, last = len(x), len(x) - 1
    if k == 1:
        total = 0.5 * row[c] * G[own, 0]
        for e in range(own + np.uint64(1), stop):
            total += row[np.uint32(indices[e])] * G[e, 0]
        out[0, 0] += 2.0 * total * G[own, 0]
        return
    for a in range(0, k, 4):
        a1, a2, a3 = min(a + 1, last), min(a + 2, last), min(a + 3, last)
        half = 0.5 * row[c]
        x0, x1, x2, x3 = half * G[own, a], half * G[own, a1], half * G[own, a2], half * G[own, a3]
        for e in range(own + np.uint64(1), stop):
            other = row[np.uint32(indices[e])]
            x0 += other * G[e, a]
            x1 += other * G[e, a1]
            x2 += other * G[e, a2]
            x3 += other * G[e, a3]
        x[a], x[a1], x[a2], x[a3] = x0, x1, x2, x3
    for a in range(k):
        for b in range(k):
            out[a, b] += x[a] * G[own, b] + G[own, a] * x[b]


def from_dense(
    root_indptr: Index, root_leaves: Index, root_entries: Index, indptr: Index, indices: Index, G: Array, inverse: Array, out: Array
) -> None:
    """Parts of sum_j G_j S^-1 G_j', into `out` (r, k, k); `inverse` (r, r) holds its upper triangle.

    A small inverse stays in the processor's cache, so that leaves are read one after the other; of a large one a row does.
    """
    if len(inverse) <= _CACHED:
        _traces_by_leaf(indptr, indices, G, inverse, out)
    else:
        _traces_by_column(root_indptr, root_leaves, root_entries, indptr, indices, G, inverse, out)


@parallel_loops
def _traces_by_leaf(indptr: Index, indices: Index, G: Array, inverse: Array, out: Array) -> None:
    """As `from_dense`; each row of `out` is the sum over a run of leaves."""
    q, k, runs = len(indptr) - 1, G.shape[1], len(out)
    for run in numba.prange(runs):
        sums, x = np.zeros((k, k)), np.empty(k)
        for j in range(q * run // runs, q * (run + 1) // runs):
            for own in range(indptr[j], indptr[j + 1]):
                c = indices[own]
                _add_products(inverse[c], c, np.uint64(own), np.uint64(indptr[j + 1]), indices, G, x, sums)
        out[run] = sums


@parallel_loops
def _traces_by_column(
    root_indptr: Index, root_leaves: Index, root_entries: Index, indptr: Index, indices: Index, G: Array, inverse: Array, out: Array
) -> None:
    """As `from_dense`; a thread owns a row."""
    r, k = len(inverse), G.shape[1]
    for c in numba.prange(r):
        row = inverse[c]
        x = np.empty(k)
        for a in range(k):
            for b in range(k):
                out[c, a, b] = 0.0
        for t in range(root_indptr[c], root_indptr[c + 1]):
            own, stop = np.uint64(root_entries[t]), np.uint64(indptr[root_leaves[t] + 1])
            _add_products(row, c, own, stop, indices, G, x, out[c])


@parallel_loops
def from_sparse(
    root_indptr: Index,
    root_leaves: Index,
    root_entries: Index,
    indptr: Index,
    indices: Index,
    G: Array,
    S_indptr: Index,
    S_indices: Index,
    inverse: Array,
    work: Array,
    out: Array,
) -> None:
    """As `from_dense`, with the inverse on S's pattern; row w of `work` belongs to one thread."""
    r, k, threads = len(S_indptr) - 1, G.shape[1], len(work)
    for w in numba.prange(threads):
        row = work[w]
        x = np.empty(k)
        for c in range(w, r, threads):
            for e in range(S_indptr[c], S_indptr[c + 1]):
                row[S_indices[e]] = inverse[e]
            for a in range(k):
                for b in range(k):
                    out[c, a, b] = 0.0
            for t in range(root_indptr[c], root_indptr[c + 1]):
                own, stop = np.uint64(root_entries[t]), np.uint64(indptr[root_leaves[t] + 1])
                _add_products(row, c, own, stop, indices, G, x, out[c])


def work_size(r: int, threads: int) -> int:
    """Numbers that `from_inverse_factor` needs beside a matrix of order r."""
    return threads * r * PANEL


@parallel_loops
def from_inverse_factor(
    indptr: Index, indices: Index, entries: LeafEntries, places: Index, G: Array, L: Array, work: Array, out: Array
) -> None:
    """As `from_dense`, by (L^-1 G_j')'(L^-1 G_j'), into `out` (panels, k, k); the upper triangle of `L` (r, r) holds L^-1'.

    A thread owns panels of columns, each copied to its room in `work` (threads, r, PANEL). `entries` and `places` are those
    of the `RootOrder` in which L stands.
    """
    q, r, k, threads = len(indptr) - 1, len(L), G.shape[1], len(work)
    for w in numba.prange(threads):
        panel, x = work[w], np.empty((k, PANEL))
        for p in range(w, len(out), threads):
            start, stop = p * PANEL, min(p * PANEL + PANEL, r)
            _copy_panel(L, start, stop, panel)
            for a in range(k):
                for b in range(k):
                    out[p, a, b] = 0.0
            for j in range(q):
                first, last = indptr[j], indptr[j + 1]
                n = _entries_before(stop, indices[first:last], entries[first:last], places)
                if n == 0:
                    continue
                _add_rows(indices[first:last], entries[first : first + n], places, G[first:last], panel, x)
                for a in range(k):
                    for b in range(a + 1):
                        total = 0.0
                        for t in range(PANEL):
                            total += x[a, t] * x[b, t]
                        out[p, a, b] += total
            for a in range(k):
                for b in range(a):
                    out[p, b, a] = out[p, a, b]


@loop_part
def _entries_before(stop: int, indices: Index, entries: LeafEntries, places: Index) -> int:
    """How many entries of a leaf stand before a place; they are in order."""
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if places[indices[entries[middle]]] < stop:
            low = middle + 1
        else:
            high = middle
    return low


@loop_part
def _add_rows(indices: Index, entries: LeafEntries, places: Index, G: Array, panel: Array, x: Array) -> None:
    """L^-1 G_j' of some entries of a leaf, those columns that are in the panel, into `x` (k, PANEL); four rows in one pass over `x`."""
    n = len(entries)
    whole = 4 * (n // 4)
    for a in range(len(x)):
        own = x[a]
        own[:] = 0.0
        for i in range(0, whole, 4):
            e0, e1, e2, e3 = entries[i], entries[i + 1], entries[i + 2], entries[i + 3]
            c0, c1, c2, c3 = places[indices[e0]], places[indices[e1]], places[indices[e2]], places[indices[e3]]
            row0, row1, row2, row3 = panel[c0], panel[c1], panel[c2], panel[c3]
            g0, g1, g2, g3 = G[e0, a], G[e1, a], G[e2, a], G[e3, a]
            for t in range(PANEL):
                own[t] += (g0 * row0[t] + g1 * row1[t]) + (g2 * row2[t] + g3 * row3[t])
        for i in range(whole, n):
            row, g = panel[places[indices[entries[i]]]], G[entries[i], a]
            for t in range(PANEL):
                own[t] += g * row[t]


@loop_part
def _copy_panel(L: Array, start: int, stop: int, panel: Array) -> None:
    """Columns of the upper triangle, with zeros below it and beyond its last column."""
    for c in range(stop):
        for t in range(start, start + PANEL):
            panel[c, t - start] = L[c, t] if c <= t < stop else 0.0


@parallel_loops
def squares_of_rows(L: Array, start: int, k: int, out: Array) -> None:
    """Diagonal blocks (k, k) of S^-1 = L^-T L^-1 from `start` on, into `out` (levels, k, k); `L` as in `from_inverse_factor`."""
    r = len(L)
    for j in numba.prange(len(out)):
        for a in range(k):
            for b in range(a + 1):
                one, other, total = start + j * k + a, start + j * k + b, 0.0
                for t in range(one, r):
                    total += L[one, t] * L[other, t]
                out[j, a, b] = out[j, b, a] = total
