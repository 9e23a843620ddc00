"""One local file has one name, however its path is spelled: else its rows would count twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

import bigmm

FORMULA = "y ~ 1 + (1 | g)"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in "ab":
        Path(folder).mkdir()
    pd.DataFrame({"y": [1.0, 2.0, 4.0, 3.0] * 5, "g": [1, 1, 2, 3] * 5}).to_parquet("a/p.parquet", row_group_size=10)
    Path("b/link.parquet").symlink_to("../a/p.parquet")


@pytest.mark.parametrize("spelled", ["a//p.parquet", "a/./p.parquet", "a/../a/p.parquet", "a//*.parquet", "./a", "b/../a"])
def test_another_spelling_is_the_same_file(spelled: str) -> None:
    with pytest.raises(bigmm.DataError, match="listed twice"):
        bigmm.reduce(FORMULA, ["a/p.parquet", spelled], client=0)


def test_a_link_is_the_same_file() -> None:
    with pytest.raises(bigmm.DataError, match=r"/a/p.parquet' and '.*/b/link.parquet' are the same file, so its rows would count twice"):
        bigmm.reduce(FORMULA, ["a/p.parquet", "b"], client=0)


@pytest.mark.parametrize("paths", [["a/p.parquet", "a/p.parquet"], ["a/p.parquet", "b/link.parquet"]])
def test_a_dataset_that_has_a_file_twice(paths: list[str]) -> None:
    with pytest.raises(bigmm.DataError, match="its rows would count twice"):
        bigmm.reduce(FORMULA, ds.dataset(paths), client=0)


def test_a_dataset_of_row_groups_of_one_file() -> None:
    (fragment,) = ds.dataset("a").get_fragments()
    assert isinstance(fragment, ds.ParquetFileFragment)
    parts = [fragment.subset(row_group_ids=[group]) for group in (0, 1)]
    cp = bigmm.reduce(FORMULA, ds.FileSystemDataset(parts, fragment.physical_schema, fragment.format, fragment.filesystem), client=0)
    assert cp.nobs == 20
    twice = ds.FileSystemDataset([fragment, *parts], fragment.physical_schema, fragment.format, fragment.filesystem)
    with pytest.raises(bigmm.DataError, match="its rows would count twice"):
        bigmm.reduce(FORMULA, twice, client=0)


@pytest.mark.parametrize("path", ["a", "./a", "b/../a"])
def test_a_dataset_by_a_relative_path(path: str) -> None:
    with pytest.raises(bigmm.LabelError, match="in several of the crossproducts"):
        bigmm.reduce(FORMULA, ds.dataset(path), client=0) + bigmm.reduce(FORMULA, "a", client=0)


def test_datasets_of_file_systems_inside_others() -> None:
    here, whole = fs.SubTreeFileSystem(os.getcwd(), fs.LocalFileSystem()), ds.dataset("a")
    shutil.copy("a/p.parquet", "b/p.parquet")
    for other in (here, fs.PyFileSystem(fs.FSSpecHandler(LocalFileSystem()))):
        inside = ds.dataset("a" if other is here else os.path.abspath("a"), filesystem=other)
        with pytest.raises(bigmm.DataError, match="its rows would count twice"):
            bigmm.reduce(FORMULA, ds.dataset([whole, inside]), client=0)
    parts = [ds.dataset("p.parquet", filesystem=fs.SubTreeFileSystem(os.path.abspath(folder), fs.LocalFileSystem())) for folder in "ab"]
    together = bigmm.reduce(FORMULA, ds.dataset(parts), client=0)
    assert together.nobs == sum(bigmm.reduce(FORMULA, part, client=0) for part in parts).nobs == 40
    assert list(together.sources.urls) == [os.path.abspath(f"{folder}/p.parquet") for folder in "ab"]


def test_links_that_lead_to_no_file() -> None:
    Path("a/x.parquet").symlink_to("nowhere")
    with pytest.raises(bigmm.DataError, match=r"/a/x.parquet' does not exist: check the path"):
        bigmm.reduce(FORMULA, "a", client=0)
    Path("a/x.parquet").unlink()
    Path("a/x.parquet").symlink_to("../b")
    with pytest.raises(bigmm.DataError, match=r"'.*/a/x.parquet' is a link to a folder, inside of the data"):
        bigmm.reduce(FORMULA, "a", client=0)
