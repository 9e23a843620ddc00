"""Saved crossproducts, fits, checkpoints and logs that were damaged, or made to do harm: an error of bigmm's, or the right thing.

More examples by hand: ``pytest tests/fuzz --hypothesis-profile=long``.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bigmm
from bigmm.storage.directories import _seal

MANIFESTS = {"crossproducts": "crossproducts.json", "fit": "estimates.json"}
#: What a hostile hand might write in any place of a manifest.
HOSTILE: list[Any] = [None, -1, 10**30, 1.5, "", "../../x", "/etc/passwd", "y ~ __import__('os') + (1 | g)"]
HOSTILE += [[], {}, [[]], {"time": "z"}, True, "9" * 50, [1] * 3, 1e308]


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = {"y": rng.normal(size=60), "x": rng.normal(size=60), "f": rng.choice(list("ab"), 60)}
    return pd.DataFrame({**table, "g": rng.integers(0, 6, 60), "h": rng.choice(list("pqr"), 60)})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    cp = bigmm.reduce("y ~ x + f + (x | g) + (1 | h)", rows(), client=0)
    cp.save(folder / "crossproducts")
    cp.fit().save(folder / "fit")
    return folder


def copied(saved: Path, kind: str) -> Path:
    target = saved / "copy"
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(saved / kind, target))


def seal(folder: Path, kind: str, change: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
    """Make digests fit what is there now, as somebody would who wants to be believed."""
    manifest = folder / MANIFESTS[kind]
    record = json.loads(manifest.read_text())
    record["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in record["files"]}
    change(record)
    record["seal"] = _seal(record)
    manifest.write_text(json.dumps(record))


def use(folder: Path) -> None:
    """Load and do what people do; only errors of bigmm's are allowed."""
    try:
        found = bigmm.load(folder)
        if isinstance(found, bigmm.CrossProducts):
            found.model().objective(found.model().theta0)
        else:
            assert found.summary()
            assert len(found.predict(rows())) == 60
            assert found.ranef()
    except bigmm.BigmmError:
        pass


kinds = st.sampled_from(["crossproducts", "fit"])
seeds = st.integers(0, 2**32).map(random.Random)


@given(kinds, seeds, st.booleans(), st.booleans())
def test_damaged_files(saved: Path, kind: str, rng: random.Random, truncated: bool, resealed: bool) -> None:
    folder = copied(saved, kind)
    file = rng.choice(sorted(folder.iterdir()))
    content = bytearray(file.read_bytes())
    if truncated:
        del content[rng.randrange(len(content)) :]
    else:
        for _ in range(rng.choice([1, 3, 10])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    if file.name in MANIFESTS.values() or not resealed:
        try:
            bigmm.load(folder)
        except bigmm.StorageError:
            return
        assert file.name in MANIFESTS.values()  # a blank or an indentation: what it says is the same
        assert json.loads(file.read_text()) == json.loads((saved / kind / file.name).read_text())
    else:
        seal(folder, kind)
        use(folder)


@given(kinds, seeds, st.sampled_from(HOSTILE), st.booleans())
@pytest.mark.filterwarnings("ignore::bigmm.IdentificationWarning", "ignore::bigmm.PrecisionWarning", "ignore::RuntimeWarning")
def test_hostile_manifests(saved: Path, kind: str, rng: random.Random, value: Any, remove: bool) -> None:
    folder = copied(saved, kind)

    def change(record: dict[str, Any]) -> None:
        places: list[tuple[Any, Any]] = []
        open_ends: list[Any] = [record]
        while open_ends:
            node = open_ends.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
            places += [(node, key) for key in keys]
            open_ends += [node[key] for key in keys]
        node, key = rng.choice(places)
        if remove and isinstance(node, dict):
            del node[key]
        else:
            node[key] = value

    manifest = folder / MANIFESTS[kind]
    record = json.loads(manifest.read_text())
    change(record)
    record["seal"] = _seal(record)
    manifest.write_text(json.dumps(record))
    use(folder)


@pytest.mark.parametrize("name", ["", "z", "(Intercept)"])
def test_a_renamed_coefficient_is_refused(saved: Path, name: str) -> None:
    """When the fit is loaded, not when it predicts."""
    folder = copied(saved, "fit")

    def rename(record: dict[str, Any]) -> None:
        record["fixef"][1]["name"] = name

    seal(folder, "fit", rename)
    with pytest.raises(bigmm.StorageError):
        bigmm.load(folder)


@pytest.mark.parametrize("names", ["", [], ["(Intercept)", "x", "x"]])
def test_other_random_effects_than_there_are_columns(saved: Path, names: Any) -> None:
    """When the fit is loaded, not when its table is made."""
    folder = copied(saved, "fit")

    def rename(record: dict[str, Any]) -> None:
        record["groups"][-1]["coef_names"] = names

    seal(folder, "fit", rename)
    with pytest.raises(bigmm.StorageError):
        bigmm.load(folder)


def test_an_edited_estimate_is_found(saved: Path) -> None:
    folder = copied(saved, "fit")
    manifest = folder / "estimates.json"
    record = json.loads(manifest.read_text())
    record["fixef"][1]["estimate"] += 1e-3
    manifest.write_text(json.dumps(record))
    with pytest.raises(bigmm.StorageError, match="seal"):
        bigmm.load(folder)


def header(shape: str, descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def write_member(folder: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(folder / "arrays.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "arrays.npz", "w", compression) as archive:
        for name, old in members.items():
            archive.writestr(name, content if name == "group0.ZtZ.npy" else old)
    seal(folder, "crossproducts")


def pickled() -> bytes:
    class Harm:
        def __reduce__(self) -> tuple[Any, Any]:
            return pytest.fail, ("code from a file was run",)

    return header("(1,)", "|O") + pickle.dumps(Harm())


@pytest.mark.parametrize(
    "content",
    [
        header("(10000000000, 2, 2)"),
        header("(9223372036854775807, 9223372036854775807)"),
        header("(-1, 2)"),
        pickled(),
        b"",
        header("(6, 2, 2)"),
    ],
    ids=["80 GB", "overflow", "negative", "pickle", "nothing", "no data"],
)
def test_arrays_that_promise_what_they_do_not_hold(saved: Path, content: bytes) -> None:
    folder = copied(saved, "crossproducts")
    write_member(folder, content)
    tracemalloc.start()
    try:
        with pytest.raises(bigmm.StorageError, match="damaged"):
            bigmm.load(folder)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_zip_bombs(saved: Path) -> None:
    folder = copied(saved, "crossproducts")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(10_000_000))
    write_member(folder, buffer.getvalue(), zipfile.ZIP_DEFLATED)
    with pytest.raises(bigmm.StorageError, match="compressed"):
        bigmm.load(folder)


@pytest.mark.parametrize(
    ("kind", "file"), [("crossproducts", "levels-0.parquet"), ("crossproducts", "sources.parquet"), ("fit", "ranef-0-g.parquet")]
)
def test_tables_that_are_small_on_disk_only(saved: Path, kind: str, file: str) -> None:
    folder = copied(saved, kind)
    table = pq.read_table(folder / file)
    pq.write_table(pa.table({name: pa.repeat(table[name][0], 5_000_000) for name in table.column_names}), folder / file)
    seal(folder, kind)
    with pytest.raises(bigmm.StorageError, match="damaged"):
        bigmm.load(folder)


@pytest.mark.parametrize("kind", ["crossproducts", "fit"])
def test_links_are_not_followed(saved: Path, kind: str, tmp_path: Path) -> None:
    folder = copied(saved, kind)
    file = next(path for path in folder.iterdir() if path.suffix == ".parquet")
    (tmp_path / "elsewhere").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(bigmm.StorageError, match="is a link"):
        bigmm.load(folder)


@given(seeds, st.booleans())
def test_search_logs(saved: Path, rng: random.Random, truncated: bool) -> None:
    """The log of a search: refused, or the estimates are those of a search without it."""
    model = bigmm.reduce("y ~ x + (1 | g)", rows(), client=0).model()
    log = saved / "search.log"
    log.unlink(missing_ok=True)
    expected = model.fit(log=log)
    content = bytearray(log.read_bytes())
    if truncated:
        del content[rng.randrange(len(content)) :]
    else:
        content[rng.randrange(len(content))] = rng.randrange(256)
    log.write_bytes(content)
    try:
        found = model.fit(log=log)
    except bigmm.BigmmError:
        return
    np.testing.assert_array_equal(found.theta, expected.theta)


@given(seeds, st.booleans())
def test_checkpoints(saved: Path, rng: random.Random, truncated: bool) -> None:
    folder = saved / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    expected = bigmm.reduce("y ~ x + (1 | g)", rows(), client=0, checkpoint=folder)
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    content = bytearray(file.read_bytes())
    if truncated:
        del content[rng.randrange(len(content)) :]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    try:
        found = bigmm.reduce("y ~ x + (1 | g)", rows(), client=0, checkpoint=folder)
    except bigmm.BigmmError:
        return
    assert found.digest == expected.digest
