"""CHOLMOD through scikit-sparse: the only file that knows it.

scikit-sparse 0.4 (0.5 has another interface and needs a SuiteSparse newer than Debian 12's).
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from sksparse.cholmod import CholmodNotPositiveDefiniteError, analyze

from bigmm.columns import Array
from bigmm.solver.layout import Index
from bigmm.solver.threads import blas_threads

Ordering: TypeAlias = Literal["default", "natural", "amd", "metis", "nesdis", "colamd", "best"]


def library_version() -> str:
    """Version of the CHOLMOD that is loaded, empty where it cannot be told; scikit-sparse does not pass it on."""
    with contextlib.suppress(OSError, AttributeError, StopIteration):
        mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
        library = ctypes.CDLL(next(path for path in mapped if "libcholmod" in path))
        version = (ctypes.c_int * 3)()
        library.cholmod_version(version)
        return ".".join(map(str, version))
    return ""


class NotPositiveDefiniteError(ArithmeticError):
    """The matrix has no Cholesky factor at this theta."""


class SparseFactor:
    """P S P' = L L' of one pattern: analysed once, factored again for each set of values.

    Parameters
    ----------
    indptr, indices : (r + 1,), (nnz,) int arrays
        Lower triangle by columns, rows ascending (CHOLMOD gives a wrong factor for unsorted rows);
        entries above the diagonal are ignored.
    ordering : str
        CHOLMOD's fill-reducing order; "natural" keeps the columns in place.
    simplicial : bool
        Ask for the simplicial factor, whose pattern holds no entry that is zero by structure.
    """

    def __init__(self, indptr: Index, indices: Index, ordering: Ordering = "default", *, simplicial: bool = False) -> None:
        r = len(indptr) - 1
        small = len(indices) < np.iinfo(np.int32).max
        kind: Any = np.int32 if small else np.int64
        self.indptr, self.indices = indptr.astype(kind, copy=False), indices.astype(kind, copy=False)
        self._matrix = sp.csc_matrix((np.zeros(len(indices)), self.indices, self.indptr), shape=(r, r))
        self._threads = blas_threads(r)
        mode = "simplicial" if simplicial else "auto"
        self._factor: Any = analyze(self._matrix, mode=mode, ordering_method=ordering, use_long=not small)

    @property
    def permutation(self) -> Index:
        """Row i of L belongs to column ``permutation[i]`` of S."""
        return np.asarray(self._factor.P(), dtype=np.int64)

    @property
    def values(self) -> Array:
        """The matrix's values on its pattern: write here, then `factorize`."""
        return self._matrix.data

    def factorize(self) -> None:
        """L of the present values.

        Raises
        ------
        NotPositiveDefiniteError
        """
        with self._threads():
            try:
                self._factor.cholesky_inplace(self._matrix)
                self._factor.D()
            except CholmodNotPositiveDefiniteError as error:
                raise NotPositiveDefiniteError(str(error)) from None

    def logdet(self) -> float:
        """log|S| = 2 log|L|."""
        return float(self._factor.logdet())

    def solve_L(self, b: Array) -> Array:
        """L^-1 P b.

        (``use_LDLt_decomposition=True``, the default, would turn a supernodal factor simplicial.)
        """
        with self._threads():
            return np.asarray(self._factor.solve_L(self._factor.apply_P(b), use_LDLt_decomposition=False))

    def solve_Lt(self, b: Array) -> Array:
        """P' L^-T b."""
        with self._threads():
            return np.asarray(self._factor.apply_Pt(self._factor.solve_Lt(b, use_LDLt_decomposition=False)))

    def L(self) -> sp.csc_matrix:
        """A copy of L."""
        L: sp.csc_matrix = self._factor.L()
        return L
