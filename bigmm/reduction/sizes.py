"""Tell Dask how large our objects are, so that it spills and places them by their size (entry point ``dask.sizeof``)."""

from __future__ import annotations

from typing import Any

from bigmm.crossproducts import CrossProducts


def register(sizeof: Any) -> None:
    """Register the size of CrossProducts with Dask's `sizeof`."""

    @sizeof.register(CrossProducts)  # type: ignore[untyped-decorator]
    def _(cp: CrossProducts) -> int:
        return cp.nbytes
