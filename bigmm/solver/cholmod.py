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
from bigmm.solver.symbolic import column_counts
from bigmm.solver.threads import front_threads

#: Matrices and factors with fewer entries have 32-bit places; half of what they can count, as supernodes hold zeros besides.
_INT32_ENTRIES = 2**30

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

    Attributes
    ----------
    counts, parent, flops
        Of L, see `bigmm.solver.symbolic.column_counts`.
    blas_threads : int
        What the widest front is worth; whoever calls has set the limit.
    """

    def __init__(self, indptr: Index, indices: Index, ordering: Ordering = "default", *, simplicial: bool = False) -> None:
        r, mode = len(indptr) - 1, "simplicial" if simplicial else "auto"
        kinds: tuple[type, ...] = (np.int32, np.int64) if len(indices) < _INT32_ENTRIES else (np.int64,)
        for kind in kinds:
            self.indptr: Index = indptr.astype(kind, copy=False)
            self.indices: Index = indices.astype(kind, copy=False)
            self._matrix = sp.csc_matrix((r, r))
            self._matrix.data = np.zeros(len(indices))
            self._matrix.indptr, self._matrix.indices = self.indptr, self.indices  # the constructor would shorten them
            self._factor: Any = analyze(self._matrix, mode=mode, ordering_method=ordering, use_long=kind is np.int64)
            self.counts, self.parent, self.flops = column_counts(indptr, indices, self.permutation)
            if self.counts.sum() < _INT32_ENTRIES:
                break
        self.blas_threads = front_threads(int(self.counts.max(initial=0)))

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
        try:
            self._factor.cholesky_inplace(self._matrix)
            D = self._factor.D()
        except CholmodNotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(str(error)) from None
        if not (D > 0.0).all():  # a simplicial factor, L D L', goes on with what is negative
            raise NotPositiveDefiniteError("a pivot of the root is not positive")

    def logdet(self) -> float:
        """log|S| = 2 log|L|."""
        return float(self._factor.logdet())

    def solve_L(self, b: Array) -> Array:
        """L^-1 P b.

        (``use_LDLt_decomposition=True``, the default, would turn a supernodal factor simplicial.)
        """
        return np.asarray(self._factor.solve_L(self._factor.apply_P(b), use_LDLt_decomposition=False))

    def solve_Lt(self, b: Array) -> Array:
        """P' L^-T b."""
        return np.asarray(self._factor.apply_Pt(self._factor.solve_Lt(b, use_LDLt_decomposition=False)))

    def L(self) -> sp.csc_matrix:
        """A copy of L."""
        L: sp.csc_matrix = self._factor.L()
        return L
