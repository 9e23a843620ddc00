"""One file has one name, however it is reached, else its rows would count twice; and two files have two, else those of one are lost."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

import bigmm
from bigmm.reduction.sources.paths import list_files, remote_name

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


def test_a_dataset_at_a_url_is_the_file_at_that_url() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/one-name/p.parquet", Path("a/p.parquet").read_bytes())
    of_url = bigmm.reduce(FORMULA, "memory://one-name/p.parquet", client=0)
    of_dataset = bigmm.reduce(FORMULA, ds.dataset("/one-name/p.parquet", format="parquet", filesystem=memory), client=0)
    assert of_url.sources.urls == of_dataset.sources.urls == ("memory:///one-name/p.parquet",)
    with pytest.raises(bigmm.LabelError, match=r"p\.parquet"):
        of_url + of_dataset
    assert bigmm.reduce(FORMULA, "memory://one-name/p.parquet", into=of_dataset, client=0) is of_dataset


@pytest.fixture
def archives() -> list[str]:
    """Two archives whose members have one name and one size."""
    for number, name in enumerate(("jan", "feb")):
        y, g = np.random.default_rng(number).normal(size=40), np.random.default_rng(number).integers(0, 5, 40)
        rows = "".join(f"{value:+.6f},{level}\n" for value, level in zip(y, g, strict=True))
        with zipfile.ZipFile(f"{name}.zip", "w") as archive:
            archive.writestr("year=2024/data.csv", "y,g\n" + rows)
    return [f"zip://year=2024/data.csv::{name}.zip" for name in ("jan", "feb")]


def test_members_of_two_archives_are_two_files(archives: list[str], tmp_path: Path) -> None:
    first, second = (bigmm.reduce(FORMULA, url, client=0) for url in archives)
    assert first.sources.urls == (f"zip://year=2024/data.csv::{tmp_path}/jan.zip",)
    assert (first + second).digest == bigmm.reduce(FORMULA, archives[1], into=first, client=0).digest
    assert bigmm.reduce(FORMULA, archives, client=0).nobs == 80
    assert [file.keys for file in list_files(archives, {})] == [(("year", "2024"),)] * 2
    bigmm.reduce(FORMULA, archives[0], client=0, checkpoint="check")
    with pytest.raises(bigmm.StorageError, match="check"):
        bigmm.reduce(FORMULA, archives[1], client=0, checkpoint="check")


def test_a_query_may_say_which_file() -> None:
    web: Any = SimpleNamespace(unstrip_protocol=lambda path: path)
    names = ["".join(remote_name(web, f"https://host/export.csv{query}")) for query in ("", "?part=1", "?part=2", "?part=2&sig=s3cret")]
    assert len(set(names[:3])) == 3
    assert names[3] == names[0] == "https://host/export.csv"
    assert "part" not in "".join(names)


def test_files_that_only_a_signature_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/one-name/a.csv?v=1&sig=x": b"y,g\n1,a\n", "/one-name/a.csv?v=2&sig=x": b"y,g\n2,b\n"})
    with pytest.raises(bigmm.DataError, match=r"two files have the name 'memory:///one-name/a\.csv' without their signatures"):
        list_files("memory://one-name", {})


def test_some_row_groups_are_not_the_file() -> None:
    whole = ds.dataset("a", format="parquet")
    (fragment,) = whole.get_fragments()
    some: Any = ds.FileSystemDataset([fragment.subset(row_group_ids=[0])], whole.schema, fragment.format)  # type: ignore[attr-defined,arg-type]
    part = bigmm.reduce(FORMULA, some, client=0)
    assert part.nobs == 10
    with pytest.raises(bigmm.DataError, match=r"p\.parquet' changed after it was added .*, or some of its row groups were added: subtract"):
        bigmm.reduce(FORMULA, "a", into=part, client=0)
