"""Linear mixed models, the models of R's lme4, for data that no single machine can hold.

Dask workers reduce rows to crossproducts; a driver fits the model from these alone.

>>> import bigmm
>>> fit = bigmm.lmer("y ~ service + (1 | s) + (1 | d)", "ratings/*.parquet")    # doctest: +SKIP
>>> print(fit)                                                                 # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bigmm.errors import (
    BigmmError,
    ClusterError,
    DataError,
    FormulaError,
    IdentificationWarning,
    LabelError,
    ModelError,
    PrecisionWarning,
    SettingError,
    StorageError,
)

if TYPE_CHECKING:
    from bigmm.addition import merge
    from bigmm.crossproducts import CrossProducts
    from bigmm.fitting import lmer
    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.reduction.progress import Progress
    from bigmm.reduction.reduce import reduce
    from bigmm.remote import RemoteCrossProducts, reduce_on_workers
    from bigmm.solver.model import LinearMixedModel
    from bigmm.solver.optimize import Optimizer
    from bigmm.storage import load
    from bigmm.subtraction import subtract

__version__ = "0.2.0.dev0"

__all__ = [
    "BigmmError",
    "ClusterError",
    "CrossProducts",
    "DataError",
    "FormulaError",
    "IdentificationWarning",
    "LabelError",
    "LinearMixedModel",
    "LinearMixedModelFit",
    "ModelError",
    "Optimizer",
    "PrecisionWarning",
    "Progress",
    "RemoteCrossProducts",
    "SettingError",
    "StorageError",
    "lmer",
    "load",
    "merge",
    "reduce",
    "reduce_on_workers",
    "subtract",
]

#: Loaded on first use: a worker that reduces chunks never loads the solver.
_HOMES = {
    "CrossProducts": "bigmm.crossproducts",
    "LinearMixedModel": "bigmm.solver.model",
    "LinearMixedModelFit": "bigmm.inference.fit",
    "Optimizer": "bigmm.solver.optimize",
    "Progress": "bigmm.reduction.progress",
    "lmer": "bigmm.fitting",
    "load": "bigmm.storage",
    "merge": "bigmm.addition",
    "reduce": "bigmm.reduction.reduce",
    "reduce_on_workers": "bigmm.remote",
    "RemoteCrossProducts": "bigmm.remote",
    "subtract": "bigmm.subtraction",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bigmm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
