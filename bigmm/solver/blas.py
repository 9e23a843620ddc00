"""BLAS and LAPACK on parts of one large matrix, at addresses; other threads run Python meanwhile.

SciPy's own wrappers take whole arrays and keep Python's lock. These are the same routines (`scipy.linalg.cython_blas` and
`cython_lapack`), for lower triangles, in Fortran's order: entry (i, j) of a matrix at `a` is at ``a + 8 (i + j lda)``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from numba.extending import get_cython_function_address


def _routine(module: str, name: str, arguments: int) -> Callable[..., None]:
    address = get_cython_function_address(f"scipy.linalg.{module}", name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)


_dgemm = _routine("cython_blas", "dgemm", 13)
_dsymm = _routine("cython_blas", "dsymm", 12)
_dsyrk = _routine("cython_blas", "dsyrk", 10)
_dtrmm = _routine("cython_blas", "dtrmm", 11)
_dtrsm = _routine("cython_blas", "dtrsm", 11)
_dpotrf = _routine("cython_lapack", "dpotrf", 5)
_dlauum = _routine("cython_lapack", "dlauum", 5)
_dtrtri = _routine("cython_lapack", "dtrtri", 6)

# What the addresses below point at must live as long as they do.
_LETTERS = {letter: ctypes.c_char(letter.encode()) for letter in "LRNT"}
_L, _R, _N, _T = (ctypes.addressof(_LETTERS[letter]) for letter in "LRNT")
_OPERATIONS = {"N": _N, "T": _T}
_SIDES = {"L": _L, "R": _R}
_NUMBERS = [ctypes.c_double(number) for number in (0.0, 1.0, -1.0)]
_ZERO, _ONE, _MINUS_ONE = (ctypes.addressof(number) for number in _NUMBERS)
_INT = ctypes.sizeof(ctypes.c_int)


def _integers(*values: int) -> tuple[ctypes.Array[ctypes.c_int], list[int]]:
    """Integers in memory, and where each is."""
    stored = (ctypes.c_int * len(values))(*values)
    first = ctypes.addressof(stored)
    return stored, [first + _INT * i for i in range(len(values))]


def subtract_product(operations: str, m: int, n: int, k: int, a: int, lda: int, b: int, ldb: int, c: int, ldc: int) -> None:
    """C -= op(A) op(B); op(A) (m, k), op(B) (k, n), C (m, n). "NT" in `operations`: A as it is and B transposed."""
    _kept, (m_, n_, k_, lda_, ldb_, ldc_) = _integers(m, n, k, lda, ldb, ldc)
    of_a, of_b = (_OPERATIONS[letter] for letter in operations)
    _dgemm(of_a, of_b, m_, n_, k_, _MINUS_ONE, a, lda_, b, ldb_, _ONE, c, ldc_)


def minus_symmetric_product(m: int, n: int, a: int, lda: int, b: int, ldb: int, c: int, ldc: int) -> None:
    """C = -A B; A (m, m) symmetric, B and C (m, n)."""
    _kept, (m_, n_, lda_, ldb_, ldc_) = _integers(m, n, lda, ldb, ldc)
    _dsymm(_L, _L, m_, n_, _MINUS_ONE, a, lda_, b, ldb_, _ZERO, c, ldc_)


def subtract_square(n: int, k: int, a: int, lda: int, c: int, ldc: int) -> None:
    """C -= A A'; A (n, k), C (n, n) symmetric."""
    _kept, (n_, k_, lda_, ldc_) = _integers(n, k, lda, ldc)
    _dsyrk(_L, _N, n_, k_, _MINUS_ONE, a, lda_, _ONE, c, ldc_)


def divide_by_factor(m: int, n: int, factor: int, ld: int, b: int, ldb: int) -> None:
    """B becomes B L'^-1; L (n, n), B (m, n)."""
    _kept, (m_, n_, ld_, ldb_) = _integers(m, n, ld, ldb)
    _dtrsm(_R, _L, _T, _N, m_, n_, _ONE, factor, ld_, b, ldb_)


def multiply_by_triangle(side: str, m: int, n: int, triangle: int, ld: int, b: int, ldb: int) -> None:
    """B becomes L B, or B L where L is on the "R" side; B (m, n)."""
    _kept, (m_, n_, ld_, ldb_) = _integers(m, n, ld, ldb)
    _dtrmm(_SIDES[side], _L, _N, _N, m_, n_, _ONE, triangle, ld_, b, ldb_)


def factorize(n: int, a: int, lda: int) -> int:
    """A (n, n) becomes its Cholesky factor; 0, or which leading minor is not positive."""
    stored, (n_, lda_, info) = _integers(n, lda, 0)
    _dpotrf(_L, n_, a, lda_, info)
    return stored[2]


def square_triangle(n: int, a: int, lda: int) -> None:
    """L (n, n) becomes L'L."""
    _kept, (n_, lda_, info) = _integers(n, lda, 0)
    _dlauum(_L, n_, a, lda_, info)


def invert_triangle(n: int, a: int, lda: int) -> None:
    """L (n, n) becomes L^-1."""
    _kept, (n_, lda_, info) = _integers(n, lda, 0)
    _dtrtri(_L, _N, n_, a, lda_, info)
