"""Takahashi's equations by supernodes against the dense inverse, entry by entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sksparse.cholmod import analyze

from bigmm.solver import selected_inverse

#: Matrices with condition numbers below 100.
ATOL = 1e-13


def grid(side: int) -> sp.csc_matrix:
    """A lattice: its factor has supernodes of many sizes."""
    line = sp.diags([-1.0, -1.0], [-1, 1], shape=(side, side))
    return sp.csc_matrix(sp.kron(line, sp.eye(side)) + sp.kron(sp.eye(side), line) + 5.0 * sp.eye(side * side))


def scattered(n: int, density: float) -> sp.csc_matrix:
    A = sp.random(n, n, density, random_state=n)
    return sp.csc_matrix(A @ A.T + 2.0 * sp.eye(n))


MATRICES = {
    "one": scattered(1, 0.0),
    "diagonal": scattered(40, 0.0),
    "sparse": scattered(300, 0.01),
    "nearly dense": scattered(400, 0.1),
    "lattice": grid(25),
    "arrow": sp.csc_matrix(sp.bmat([[4.0 * sp.eye(60), np.ones((60, 1))], [np.ones((1, 60)), [[50.0]]]])),
}


@pytest.mark.parametrize("panel", [3, 40, 256])
@pytest.mark.parametrize("mode", ["simplicial", "supernodal"])
@pytest.mark.parametrize("name", MATRICES)
def test_every_entry_on_the_pattern(name: str, mode: Any, panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selected_inverse, "_PANEL", panel)
    S = MATRICES[name]
    S.sort_indices()
    factor = analyze(S, mode=mode)
    factor.cholesky_inplace(S)
    L = factor.L()
    L.sort_indices()
    columns = np.repeat(np.arange(L.shape[0]), np.diff(L.indptr))
    P = factor.P()
    expected = np.linalg.inv(S.toarray()[np.ix_(P, P)])[L.indices, columns]
    selected_inverse.invert_in_place(L.indptr, L.indices, L.data)
    np.testing.assert_allclose(L.data, expected, rtol=0.0, atol=ATOL)


def test_find() -> None:
    L = sp.csc_matrix(np.tril(np.add.outer(np.arange(7), np.arange(7)) % 3 != 1).astype(float))
    L.sort_indices()
    columns = np.repeat(np.arange(7), np.diff(L.indptr))
    places = np.random.default_rng(1).permutation(L.nnz)
    found = selected_inverse.find(L.indptr, L.indices, L.indices[places].astype(np.int64), columns[places])
    np.testing.assert_array_equal(found, places)
