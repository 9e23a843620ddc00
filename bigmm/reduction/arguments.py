"""Arguments of a pass that are looked at before any data."""

from __future__ import annotations

from bigmm.errors import DataError


def check_column_names(weights: object, offset: object) -> None:
    """See that weights and offset are names of columns, not columns.

    Parameters
    ----------
    weights, offset : str or None
        As the user gave them.

    Raises
    ------
    DataError
    """
    for role, given in {"weights": weights, "offset": offset}.items():
        if given is not None and not isinstance(given, str):
            raise DataError(
                f"{role} must name a column, found a {type(given).__name__}: put the values into the data and name their column"
            )
