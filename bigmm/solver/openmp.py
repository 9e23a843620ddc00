"""OpenMP, whose threads run compiled loops, loaded so that they sleep when a loop is over.

By itself they go round for milliseconds first, on the processors that the next step of an evaluation wants. OpenMP reads its
settings from the environment when it is loaded, and never again, so that this comes before CHOLMOD, which loads it, too.
(GNU Offloading and Multi Processing Runtime Library, "OMP_WAIT_POLICY".)
"""

from __future__ import annotations

import contextlib
import importlib
import os

#: Whoever has set one of these has decided how threads wait.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def load() -> None:
    """Load the OpenMP that numba uses, where it does; the environment is left as it was."""
    if any(name in os.environ for name in _WAITING):
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module("numba.np.ufunc.omppool")
    finally:
        del os.environ["OMP_WAIT_POLICY"]
