"""What can go wrong, in words: every error of bigmm says what was found, what was expected and what to do."""

from __future__ import annotations


class BigmmError(Exception):
    """Base of every error that bigmm raises on purpose.

    The text of an error is one line (a marked formula adds two): what was found, what was
    expected, what to do about it. The command line prints it and exits with code 2.
    """


class FormulaError(BigmmError):
    """A formula that cannot be read, or that asks for something bigmm does not do.

    Parameters
    ----------
    message : str
        What was found, expected and what to do.
    formula : str, optional
        The formula's text.
    position : int, optional
        Index into `formula` of the character to mark.
    """

    def __init__(self, message: str, formula: str | None = None, position: int | None = None) -> None:
        self.message = message
        self.formula = formula
        self.position = position
        super().__init__(message, formula, position)

    def __str__(self) -> str:
        if self.formula is None or self.position is None:
            return self.message
        return f"{self.message}\n  {self.formula}\n  {' ' * self.position}^"


class DataError(BigmmError):
    """Data that cannot be read or that a model cannot use: files, schemas, columns, values."""


class NoRowsError(DataError):
    """Files that hold no row."""


class UnreadableError(DataError):
    """A file, or a part of one, whose bytes cannot be read or understood; a pass may be told to skip it."""


class LabelError(BigmmError):
    """Crossproducts that do not fit together, or that do not hold what a model asks for."""


class ModelError(BigmmError):
    """A model that cannot be evaluated: theta, start values, settings, degenerate designs."""


class ClusterError(BigmmError):
    """A Dask cluster that cannot be reached or that lost its workers."""


class StorageError(BigmmError):
    """Saved crossproducts or fits that cannot be read: absent, damaged, of another version."""


class SettingError(BigmmError):
    """A value in Dask's configuration under ``bigmm`` that means nothing there."""


class PrecisionWarning(UserWarning):
    """Crossproducts in double precision cannot carry the digits that a model asks for."""


class IdentificationWarning(UserWarning):
    """A model that can be fitted though the data leave a part of its answer open."""
