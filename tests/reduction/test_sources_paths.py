"""Files of a source: order, hidden files, patterns, URLs, keys in folder names, what cannot be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from bigmm.errors import DataError
from bigmm.reduction.sources.paths import list_files, natural_key
from bigmm.urls import without_secrets


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def labels(data: Any) -> list[str]:
    return [file.label for file in list_files(data, {})]


def test_natural_order() -> None:
    names = ["part-10", "part-2", "part-02", "a/part-1", "part-1b", "part-1"]
    assert sorted(names, key=natural_key) == ["a/part-1", "part-1", "part-1b", "part-02", "part-2", "part-10"]


def test_folder_is_walked_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b/part-10.csv", "b/part-2.csv", "a.csv", "_SUCCESS", ".a.csv.crc", "_temporary/x.csv", ".git/y.csv")
    assert labels(tmp_path) == ["a.csv", "b/part-2.csv", "b/part-10.csv"]
    assert labels(f"file://{tmp_path}") == ["a.csv", "b/part-2.csv", "b/part-10.csv"]


def test_glob(tmp_path: Path) -> None:
    touch(tmp_path, "p-10.csv", "p-9.csv", "q.csv", "day=1/x.csv", "day=2/y.csv", "day=2/_z.csv")
    assert labels(str(tmp_path / "p-*.csv")) == ["p-9.csv", "p-10.csv"]
    assert labels(str(tmp_path / "day=*")) == ["day=1/x.csv", "day=2/y.csv"]
    assert labels(str(tmp_path / "**" / "*.csv"))[:2] == ["day=1/x.csv", "day=2/y.csv"]


def test_list_keeps_its_order(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv", "b.csv", "c/2.csv", "c/1.csv")
    assert labels([tmp_path / "b.csv", str(tmp_path / "c"), tmp_path / "a.csv"]) == [
        "b.csv",
        "c/1.csv",
        "c/2.csv",
        "a.csv",
    ]


def test_name_with_the_characters_of_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].csv", "a1.csv")
    assert labels(tmp_path / "a[1].csv") == ["a[1].csv"]


def test_keys_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "year=2024/site=a%20b/x.csv")
    assert list_files(tmp_path, {})[0].keys == (("year", "2024"), ("site", "a b"))


def test_hidden_key_is_no_hidden_file(tmp_path: Path) -> None:
    touch(tmp_path, "_year=2024/x.csv")
    assert labels(tmp_path) == ["x.csv"]


def test_url_in_memory() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/paths-test/p-10.csv": b"10", "/paths-test/p-9.csv": b"9", "/paths-test/_SUCCESS": b""})
    files = list_files("memory://paths-test", {})
    assert [file.label for file in files] == ["p-9.csv", "p-10.csv"]
    assert [file.size for file in files] == [1, 2]
    assert all(file.version for file in files)
    with files[1].open() as source:
        assert source.read() == b"10"


def test_unknown_protocol() -> None:
    with pytest.raises(DataError, match=r"cannot read 'unknown://x.parquet': Protocol not known: unknown; check the path"):
        list_files("unknown://x.parquet", {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/x.csv?signature=secret", "https://host/x.csv"),
        ("simplecache::http://host/x.csv?signature=secret", "simplecache::http://host/x.csv"),
        ("ftp://me:secret@host/x.csv", "ftp://host/x.csv"),
        ("abfss://container@account/x-?.csv", "abfss://container@account/x-?.csv"),
        ("s3://key:with/slash+es@bucket/x.csv", "s3://bucket/x.csv"),
        ("s3://key:p@ss@bucket/x.csv", "s3://bucket/x.csv"),
        ("s3://bucket/at:noon@sea.csv", "s3://bucket/at:noon@sea.csv"),
        ("http://host:8080/a@b.csv", "http://host:8080/a@b.csv"),
        ("https://token@host/x.csv", "https://host/x.csv"),
        ("HTTPS://host/x.csv?sig=secret", "HTTPS://host/x.csv"),
        ("abfs://c@account/x.csv?sv=1&sig=secret", "abfs://c@account/x.csv"),
        ("gs://bucket/x.csv?X-Goog-Signature=secret&a=1", "gs://bucket/x.csv"),
        ("s3://bucket/key=a?/x-?.csv", "s3://bucket/key=a?/x-?.csv"),
        ("zip://x.csv::s3://key:secret@bucket/x.zip", "zip://x.csv::s3://bucket/x.zip"),
    ],
)
def test_secrets_of_a_url_are_in_no_message(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere' does not exist: check the path"),
        ("*.parquet", "no file matches .*check the pattern"),
        ("empty", "no data files in .*empty': expected Parquet or CSV"),
    ],
)
def test_nothing_found(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "empty/_SUCCESS")
    with pytest.raises(DataError, match=message):
        list_files(tmp_path / name, {})


def test_listed_twice(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv")
    with pytest.raises(DataError, match=r"a\.csv' is listed twice, so its rows would count twice"):
        list_files([tmp_path, tmp_path / "a.csv"], {})


@pytest.mark.parametrize(("data", "message"), [([], "list of paths is empty"), ("", "the path is empty")])
def test_no_path(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_files(data, {})
