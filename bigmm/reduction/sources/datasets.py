"""Arrow datasets: fragments, those of Parquet files cut into row groups."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.dataset as ds
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from bigmm.accounting import Origin
from bigmm.errors import DataError
from bigmm.reduction.sources.chunks import Plan, digest_of
from bigmm.reduction.sources.columns import fit_table
from bigmm.reduction.sources.cuts import balanced_runs
from bigmm.reduction.sources.files import as_planned, in_threads, reading, size_of, state_of_local, version_of
from bigmm.reduction.sources.footers import as_written, group_sizes, groups_name
from bigmm.reduction.sources.frames import plan_table
from bigmm.reduction.sources.paths import check_distinct, remote_name
from bigmm.reduction.sources.schema import number_categories, unify_schemas
from bigmm.urls import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


#: Arrow's names of file systems that fsspec calls otherwise.
_PROTOCOLS = {"gcs": "gs"}


@dataclass(frozen=True, slots=True)
class FragmentChunk:
    """A fragment of a dataset, or row groups of one.

    Parameters
    ----------
    fragment : pyarrow.dataset.FileFragment
        What to read.
    columns : pyarrow.Schema
        Needed columns in the types of the dataset.
    schema : pyarrow.Schema
        The plan's.
    name : str
        For messages.
    rows : int or None
        Known for Parquet.
    nbytes : int
        Compressed bytes of the needed columns; of the file where it is not Parquet.
    origin : Origin
        The fragment's file.
    only : str
        Which row groups are read of the file, where not all of them are.
    """

    fragment: ds.FileFragment
    columns: pa.Schema
    schema: pa.Schema
    name: str
    rows: int | None
    nbytes: int
    origin: Origin
    only: str = ""

    @property
    def origins(self) -> tuple[Origin]:
        """The file; a part of it does not pass for the whole when files are added later."""
        return (replace(self.origin, version=self.origin.version + self.only),)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows; text is dictionary-encoded where the dataset's is."""
        with as_planned(self.fragment.path, self._has_changed), reading(self.name):
            table = self._scanner(columns).to_table()
        return fit_table(table, columns, self.schema, self.name)

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:
        """First rows; text is dictionary-encoded where the dataset's is."""
        with as_planned(self.fragment.path, self._has_changed), reading(self.name):
            table = self._scanner(columns).head(rows)
        return fit_table(table, columns, self.schema, self.name)

    def _has_changed(self) -> bool:
        found = _origin(self.fragment)
        return (found.size, found.version) != (self.origin.size, self.origin.version)

    def _scanner(self, columns: Sequence[str]) -> ds.Scanner:
        # An expression means the column of that name even if the name has a dot.
        projection: Any = {name: ds.field(name) for name in columns}
        return self.fragment.scanner(schema=self.columns, columns=projection, use_threads=False)


def plan_dataset(dataset: ds.Dataset, columns: Sequence[str], chunk_bytes: int) -> Plan:
    """Plan of an Arrow dataset; one that is in memory is a table."""
    schema = unify_schemas(columns, [("the dataset", dataset.schema)])
    needed = pa.schema([_wide(dataset.schema.field(name)) for name in columns])
    found = _fragments(dataset)
    files = [fragment for fragment in found if isinstance(fragment, ds.FileFragment)]
    if len(files) < len(found):
        return plan_table(dataset.to_table(columns={name: ds.field(name) for name in columns}), columns)
    fragments = _anew(files)
    check_distinct(piece for part in in_threads(_pieces, fragments) for piece in part)
    cut = partial(_cut, needed=needed, schema=schema, chunk_bytes=chunk_bytes)
    chunks = [chunk for part in in_threads(cut, fragments) for chunk in part]
    if not chunks:
        raise DataError(f"no rows in the {len(fragments)} fragment(s) of the dataset: expected at least one")
    identity = [part for fragment in in_threads(_identity, fragments) for part in fragment]
    names = [chunk.name for chunk in chunks]
    categories = number_categories(columns, [needed, *_written(fragments)])
    return Plan(tuple(chunks), schema, categories, digest=digest_of([*identity, *names, schema, needed]), in_memory=False)


def _identity(fragment: ds.FileFragment) -> tuple[object, ...]:
    """The file, what its folders say of its rows, and how it is read."""
    origin = _origin(fragment)
    return origin.url, origin.size, origin.version, str(fragment.partition_expression), pickle.dumps(fragment.format, protocol=4).hex()


def _wide(field: pa.Field[Any]) -> pa.Field[Any]:
    """A dataset has the types of its first file, and Arrow rounds doubles of another one to single precision without a word."""
    return field.with_type(pa.float64()) if pa.types.is_floating(field.type) else field


def _anew(fragments: Sequence[ds.FileFragment]) -> list[ds.FileFragment]:
    """The same files, whose schemas and footers are read now, once each: fragments keep those of when they were first used."""
    known: dict[str, list[Any]] = {}
    files = [_file_of(fragment, known.setdefault(fragment.path, [])) for fragment in fragments]
    return in_threads(lambda pair: _of_file(*pair), zip(fragments, files, strict=True))


def _file_of(fragment: Any, known: list[Any]) -> Any:
    """The whole file, which fragments of it share."""
    for file in known:
        if file.filesystem.equals(fragment.filesystem) and file.partition_expression.equals(fragment.partition_expression):
            return file
    with reading(repr(fragment.path)):
        known.append(fragment.format.make_fragment(fragment.path, fragment.filesystem, fragment.partition_expression))
    return known[-1]


def _of_file(fragment: Any, file: Any) -> ds.FileFragment:
    """A fragment as the file has it now: all of it, or row groups that are still the same ones."""
    if not isinstance(fragment, ds.ParquetFileFragment):
        return cast("ds.FileFragment", file)
    with reading(repr(fragment.path)):
        held = _groups(fragment)
        if len(held) == fragment.metadata.num_row_groups:
            return cast("ds.FileFragment", file)
        now = _groups(file)
        if all(now.get(number) == group for number, group in held.items()) and fragment.physical_schema.equals(file.physical_schema):
            return cast("ds.FileFragment", file.subset(row_group_ids=list(held)))
    raise DataError(f"{fragment.path!r} has changed after its row groups were chosen: make the dataset again")


def _groups(fragment: ds.ParquetFileFragment) -> dict[int, tuple[int, int, str]]:
    """Rows, bytes and ranges of row groups."""
    return {group.id: (group.num_rows, group.total_byte_size, str(group.statistics)) for group in fragment.row_groups}


def _pieces(fragment: ds.FileFragment) -> list[tuple[str, tuple[str, int | None]]]:
    """What a fragment reads, its row groups or its file, and what each is known by."""
    filesystem, path = _place(fragment.filesystem, fragment.path)
    real = os.path.realpath(path) if _is_local(filesystem) else path
    if not isinstance(fragment, ds.ParquetFileFragment):
        return [(fragment.path, (real, None))]
    with reading(repr(fragment.path)):
        return [(fragment.path, (real, group.id)) for group in fragment.row_groups]


def _place(filesystem: Any, path: str) -> tuple[Any, str]:
    """A file's own file system, Arrow's or fsspec's, and its path there, without what wraps the two."""
    if isinstance(filesystem, fs.SubTreeFileSystem):
        return _place(filesystem.base_fs, f"{filesystem.base_path.rstrip('/')}/{path}")
    if isinstance(filesystem, fs.PyFileSystem) and isinstance(filesystem.handler, fs.FSSpecHandler):
        return filesystem.handler.fs, path
    return filesystem, path


def _is_local(filesystem: Any) -> bool:
    return isinstance(filesystem, (fs.LocalFileSystem, LocalFileSystem))


def _written(fragments: Sequence[ds.FileFragment]) -> Iterator[pa.Schema]:
    for fragment in fragments:
        if isinstance(fragment, ds.ParquetFileFragment):
            yield as_written(fragment.physical_schema, fragment.metadata)


def _fragments(dataset: ds.Dataset) -> list[ds.Fragment]:
    try:
        return list(dataset.get_fragments())
    except ValueError as error:
        raise DataError(
            "the dataset is filtered, which its fragments are not: pass the dataset without the filter, "
            "or the rows as a table, dataset.to_table()"
        ) from error


def _cut(fragment: ds.FileFragment, needed: pa.Schema, schema: pa.Schema, chunk_bytes: int) -> list[FragmentChunk]:
    with reading(repr(fragment.path)):
        _check_complete(fragment, needed)
        if isinstance(fragment, ds.ParquetFileFragment):
            return list(_cut_parquet(fragment, needed, schema, chunk_bytes))
    origin = _origin(fragment)
    return [FragmentChunk(fragment, needed, schema, fragment.path, rows=None, nbytes=max(origin.size, 1), origin=origin)]


def _cut_parquet(fragment: ds.ParquetFileFragment, needed: pa.Schema, schema: pa.Schema, chunk_bytes: int) -> Iterator[FragmentChunk]:
    """Row groups of a fragment, which may itself be some of those of its file, in runs; those without rows left out."""
    origin = _origin(fragment)
    groups = [group.id for group in fragment.row_groups]
    only = f", of {fragment.metadata.num_row_groups} row groups {groups}" if len(groups) < fragment.metadata.num_row_groups else ""
    of_file = group_sizes(fragment.metadata, fragment.physical_schema, needed.names)
    sizes = [of_file[group] for group in groups]
    for run in balanced_runs(sizes, chunk_bytes):
        rows, nbytes = (sum(sizes[index][part] for index in run) for part in (0, 1))
        if rows:
            ids = groups[run.start : run.stop]
            name = f"{fragment.path}, {groups_name(ids[0], ids[-1] + 1)}"
            part: Any = fragment.subset(row_group_ids=ids)
            yield FragmentChunk(part, needed, schema, name, rows, nbytes, replace(origin, rows=rows), only)


def _check_complete(fragment: ds.FileFragment, needed: pa.Schema) -> None:
    """Refuse a file without a needed column: Arrow would read nulls."""
    held = {*fragment.physical_schema.names, *ds.get_partition_keys(fragment.partition_expression)}
    absent = [name for name in needed.names if name not in held]
    if absent:
        raise DataError(f"column {absent[0]!r} is in the dataset but not in {fragment.path!r}: write it there or leave that out")


def _origin(fragment: ds.FileFragment) -> Origin:
    """The file; its name and time are written as for a path or a URL, so that the two are known to be the same."""
    filesystem, path = _place(fragment.filesystem, fragment.path)
    if _is_local(filesystem):
        return Origin(plain(os.path.abspath(path)), *state_of_local(path))
    if isinstance(filesystem, AbstractFileSystem):
        filesystem.invalidate_cache()
        info = filesystem.info(path)
        return Origin("".join(remote_name(filesystem, path)), size_of(info), version_of(info))
    found: Any = filesystem.get_file_info(path)
    protocol = _PROTOCOLS.get(filesystem.type_name, filesystem.type_name)
    return Origin(f"{protocol}://{path}", -1 if found.size is None else found.size, str(found.mtime_ns or ""))
