"""What a source becomes: an ordered plan of chunks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bigmm.errors import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from bigmm.accounting import Origin


class Chunk(Protocol):
    """A piece of the data that one task reads: small, and picklable."""

    @property
    def name(self) -> str:
        """What it is, for messages: "part-003.parquet, row groups 0-3", "partition 5", "rows 0-99999"."""

    @property
    def schema(self) -> pa.Schema:
        """The plan's."""

    @property
    def nbytes(self) -> int:
        """Estimated bytes to read, 0 when unknown."""

    @property
    def rows(self) -> int | None:
        """Number of rows, None when unknown before reading."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The files that the rows of `read` come from, in their order."""

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows of these columns of the plan, in this order; no other column is decoded.

        The columns have the plan's types. Text may be dictionary-encoded instead: dictionary<int32, large_string>,
        each value once, no null among the values, perhaps values that no row has.
        """

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:
        """First rows of these columns, as cheaply as the storage allows."""


@dataclass(frozen=True, slots=True)
class UnreadableChunk:
    """Takes the place of a chunk of which a pass has learnt that it cannot be read, and why."""

    name: str
    schema: pa.Schema
    nbytes: int
    rows: int | None
    origins: tuple[Origin, ...]
    reason: str

    @classmethod
    def of(cls, chunk: Chunk, reason: str) -> UnreadableChunk:
        """In the place of a chunk."""
        return cls(chunk.name, chunk.schema, chunk.nbytes, chunk.rows, chunk.origins, reason)

    def read(self, columns: Sequence[str]) -> pa.Table:  # noqa: ARG002
        """Say why not."""
        raise UnreadableError(self.reason)

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:  # noqa: ARG002
        """Say why not."""
        raise UnreadableError(self.reason)


@dataclass(frozen=True, slots=True)
class Plan:
    """An ordered list of chunks and what is known about them before any row is read.

    Parameters
    ----------
    chunks : tuple of Chunk
        In the order of the data; at least one.
    schema : pyarrow.Schema
        The needed columns in the order they were asked for, without repeats. Types are int64, uint64, float64,
        large_string, bool, date32 and timestamp.
    categories : mapping of str to tuple
        Declared categories, in their order, of the columns that declare any.
    digest : str
        Hash of what identifies the data and their chunks: paths, sizes, times and row groups; for tables
        in memory the number of rows and the schema.
    in_memory : bool
        Whether the data are a table in memory, which needs no cluster.
    empty : tuple of Origin
        Files without a row, of which there is no chunk.
    """

    chunks: tuple[Chunk, ...]
    schema: pa.Schema
    categories: Mapping[str, tuple[Any, ...]]
    digest: str
    in_memory: bool
    empty: tuple[Origin, ...] = ()

    @property
    def readable_here(self) -> bool:
        """Whether threads of this process may take the place of a cluster: faster on one machine, for nothing travels.

        The partitions of a Dask frame may need whatever made them: these ask for a cluster.
        """
        return self.in_memory or all(chunk.nbytes for chunk in self.chunks)


def digest_of(parts: Iterable[object]) -> str:
    """Hash of the texts of some values; where one ends and the next begins matters."""
    digest = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()
