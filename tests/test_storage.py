"""Crossproducts and fits on disk."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import pickle
import shutil
import uuid
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bigmm
from bigmm.accounting import Sources
from bigmm.formula import parse_formula
from bigmm.storage.directories import _seal
from tests.reference.cases import read_data

LEVELS: dict[str, list[Any]] = {
    "integers": [3, 10, -7, 2**40],
    "text": ["b", "a", "", "a b"],
    "unicode": ["Ünï", "日本", "🦉", "e\u0301"],
    "booleans": [True, False],
    "dates": [dt.date(2024, 1, 31), dt.date(1969, 7, 20), dt.date(2024, 2, 1)],
    "times": [dt.datetime(2024, 1, 31, 12, 30, 1, 5), dt.datetime(2024, 1, 31)],
    "zones": [pd.Timestamp("2024-01-31 12:30", tz="Europe/Berlin"), pd.Timestamp("2024-07-31", tz="Europe/Berlin")],
    "an hour twice": [pd.Timestamp(f"2023-10-29 0{hour}:30", tz="UTC").tz_convert("Europe/Berlin") for hour in (0, 1, 3)],
}
MANIFESTS = {"crossproducts": "crossproducts.json", "fit": "estimates.json"}
#: What is saved need not be the optimum.
FEW = bigmm.Optimizer(maxeval=5)


def rows(levels: list[Any], n: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    codes = np.concatenate([np.arange(len(levels)), rng.integers(0, len(levels), n - len(levels))])
    table = {"k": pd.Series([levels[code] for code in codes]), "g": rng.integers(0, 9, n), "x": rng.normal(size=n)}
    return pd.DataFrame(table).assign(y=lambda d: rng.normal(size=n) + codes + d["x"], w=rng.uniform(1, 2, n), o=1.5)


def assert_equal(found: bigmm.CrossProducts, expected: bigmm.CrossProducts) -> None:
    assert found.design == expected.design
    assert found.columns == expected.columns
    assert set(found.columns) == set(expected.columns)  # equal labels hash alike, too
    assert (found.rows, found.sum_log_weights, found.plan_digest) == (expected.rows, expected.sum_log_weights, expected.plan_digest)
    assert (list(found.sources), found.skipped) == (list(expected.sources), expected.skipped)
    assert found.digest == expected.digest
    _same_array(found.XytXy, expected.XytXy)
    for group, wanted in zip(found.groups, expected.groups, strict=True):
        assert (group.names, group.columns) == (wanted.names, wanted.columns)
        pd.testing.assert_index_equal(group.levels, wanted.levels)
        for name in ("rows", "ZtZ", "ZtXy"):
            _same_array(getattr(group, name), getattr(wanted, name))
    assert found.pairs.keys() == expected.pairs.keys()
    for key, pair in found.pairs.items():
        for name in ("g_refs", "h_refs", "ZtZ"):
            _same_array(getattr(pair, name), getattr(expected.pairs[key], name))


def _same_array(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def cp() -> bigmm.CrossProducts:
    return bigmm.reduce("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"))


# Round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LEVELS)
def test_levels(kind: str, tmp_path: Path) -> None:
    data = rows(LEVELS[kind])
    data.loc[[5, 6], "x"] = np.nan
    cp = bigmm.reduce("y ~ x * k + (1 + x | g) + (1 | g:k)", data, weights="w", offset="o")
    cp.save(tmp_path / "cp")
    loaded = bigmm.load(tmp_path / "cp")
    assert_equal(loaded, cp)
    assert_equal(loaded + cp, cp + cp)

    fit, again = cp.fit(optimizer=FEW), loaded.fit(optimizer=FEW)
    assert again.summary() == fit.summary()
    fit.save(tmp_path / "fit")
    saved = bigmm.load(tmp_path / "fit")
    assert saved.summary() == fit.summary()
    pd.testing.assert_series_equal(saved.predict(data), fit.predict(data))
    for name, table in fit.ranef().items():
        pd.testing.assert_frame_equal(saved.ranef()[name], table)


@pytest.mark.parametrize("kind", [kind for kind in LEVELS if kind != "booleans"])  # two levels of random effects say nothing
def test_grouping_factor(kind: str, tmp_path: Path) -> None:
    cp = bigmm.reduce("y ~ x + (x | k) + (1 | g)", rows(LEVELS[kind]))
    cp.save(tmp_path / "cp")
    assert_equal(bigmm.load(tmp_path / "cp"), cp)


@pytest.mark.parametrize("kind", ["integers", "text", "unicode", "dates"])
def test_declared_order(kind: str, tmp_path: Path) -> None:
    data = rows(LEVELS[kind]).assign(k=lambda d: pd.Categorical(d["k"], categories=LEVELS[kind]))
    cp = bigmm.reduce("y ~ k + (1 | g) + (1 | g:k)", data)
    cp.save(tmp_path / "cp")
    loaded = bigmm.load(tmp_path / "cp")
    assert_equal(loaded, cp)
    fit, again = cp.fit(optimizer=FEW), loaded.fit(optimizer=FEW)
    assert fit.coef_names == again.coef_names == ("(Intercept)", *(f"k{level}" for level in LEVELS[kind][1:]))
    for name, table in fit.ranef().items():
        pd.testing.assert_frame_equal(again.ranef()[name], table)


def test_paths_as_text_and_new_parents(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    cp.save(str(tmp_path / "a" / "b" / "cp"))
    assert_equal(bigmm.load(str(tmp_path / "a" / "b" / "cp")), cp)


def test_estimates_are_readable_without_bigmm(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    fit = cp.fit()
    fit.save(tmp_path / "fit")
    record = json.loads((tmp_path / "fit" / "estimates.json").read_text(encoding="utf-8"))
    assert record["fixef"] == [
        {"name": name, "estimate": fit.fixef[name], "stderr": pytest.approx(fit.stderr[name])} for name in ("(Intercept)", "Days")
    ]
    assert record["objective"] == fit.objective
    assert record["written_by"] == f"bigmm {bigmm.__version__}"
    table = pd.read_parquet(tmp_path / "fit" / record["ranef"]["Subject"])
    np.testing.assert_array_equal(table["b1:Days"], fit.ranef()["Subject"]["Days"])


# Digests --------------------------------------------------------------------------------------------------------------


def changes(cp: bigmm.CrossProducts) -> dict[str, bigmm.CrossProducts]:
    """The smallest changes that there are."""
    (group,) = cp.groups
    one = lambda array: np.where(np.arange(array.size).reshape(array.shape) == array.size - 1, np.nextafter(array, np.inf), array)  # noqa: E731
    levels = group.levels[::-1]
    return {
        "XytXy": replace(cp, XytXy=one(cp.XytXy)),
        "zero": replace(cp, XytXy=np.where(cp.XytXy == cp.XytXy.max(), 0.0, cp.XytXy)),
        "minus zero": replace(cp, XytXy=np.where(cp.XytXy == cp.XytXy.max(), -0.0, cp.XytXy)),
        "ZtZ": replace(cp, groups=(replace(group, ZtZ=one(group.ZtZ)),)),
        "ZtXy": replace(cp, groups=(replace(group, ZtXy=one(group.ZtXy)),)),
        "rows of a level": replace(cp, groups=(replace(group, rows=group.rows + (np.arange(len(group.rows)) == 0)),)),
        "levels": replace(cp, groups=(replace(group, levels=levels),)),
        "type of levels": replace(cp, groups=(replace(group, levels=group.levels.astype("str")),)),
        "columns": replace(cp, columns=cp.columns[::-1]),
        "rows": replace(cp, rows=replace(cp.rows, read=cp.rows.read + 1)),
        "missing": replace(cp, rows=replace(cp.rows, missing={"Days": 1})),
        "weights": replace(cp, sum_log_weights=5e-324),
        "shift": replace(cp, design=replace(cp.design, y_shift={"Reaction": 1.0})),
        "formula": replace(cp, design=replace(cp.design, formula=parse_formula("Reaction ~ (Days | Subject)"))),
    }


@pytest.mark.parametrize(
    "random",
    [
        "(1 + f + fb | g)",
        "(1 | g) + (1 | g)",
        "(x | g) + (1 | g)",
        "(1 | a/b) + (1 | a)",
        "(1 | a:b) + (1 | b:a)",
        "(f + fb || g)",
        "(1 | a:b) + (1 | `a:b`)",
    ],
)
def test_terms_with_names_in_common(random: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"f": rng.choice(["a", "b"], 300), **{name: rng.normal(size=300) for name in ("fb", "x")}})
    frame = frame.assign(
        g=rng.integers(0, 12, 300),
        a=rng.integers(0, 4, 300),
        b=rng.integers(0, 5, 300),
        **{"a:b": rng.integers(0, 9, 300)},
        y=rng.normal(size=300) + frame["x"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bigmm.IdentificationWarning)  # two terms of one column have one variance
        fit = bigmm.lmer(f"y ~ x + {random}", frame, client=0)
    fit.save(tmp_path / "fit")
    found = bigmm.load(tmp_path / "fit")
    assert isinstance(found, bigmm.LinearMixedModelFit)
    np.testing.assert_array_equal(found.theta, fit.theta)
    assert len(set(found.covariance.names)) == len(fit.theta)
    assert {name: len(table) for name, table in found.ranef().items()} == found.ngroups
    assert len(found.ngroups) == len(fit.groups)
    pd.testing.assert_series_equal(found.predict(frame), fit.predict(frame))


def test_digest_of_the_content(cp: bigmm.CrossProducts) -> None:
    digests = {name: changed.digest for name, changed in changes(cp).items()}
    assert len({cp.digest, *digests.values()}) == len(digests) + 1
    assert all(len(digest) == 64 for digest in digests.values())
    again = bigmm.reduce("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"))
    assert again.digest == cp.digest
    columns_first = replace(cp, XytXy=np.asfortranarray(cp.XytXy))
    assert columns_first.digest == cp.digest
    assert replace(cp, XytXy=cp.XytXy.astype(">f8")).digest == cp.digest
    assert replace(cp, plan_digest="another", sources=Sources()).digest == cp.digest


def test_digest_is_the_same_on_every_machine() -> None:
    """Written down once: another processor, version of Python or pandas must find the same."""
    numbers = {"y": [1.0, 2, 4, 8, 16, 32], "x": [0.5, 0, 1, 0, 2, 1], "w": [1.0, 2, 0.5, 2, 0.5, 1]}
    frame = pd.DataFrame({**numbers, "g": list("abcabc"), "h": [1, 2, 1, 2, 1, 1]})
    plain = bigmm.reduce("y ~ x + (1 | g) + (1 | h)", frame)
    assert plain.digest == "5980df056ffaeae29f475fd0e6a23029f7dbfe773b73229990638aaa1222f810"
    weighted = bigmm.reduce("cbind(y, x) ~ 1 + (1 | g:h)", frame, weights="w")
    assert weighted.digest == "15c093831c9eb9c2491c8b9210ee030fcebbb5421a198cc1cc6b529ecd7dc696"


@pytest.mark.parametrize("width", ["int8", "int32", "uint16", "uint64"])
def test_digest_does_not_depend_on_the_width_of_integers(width: str) -> None:
    frame = rows(LEVELS["text"])
    plain, other = (bigmm.reduce("y ~ x + (1 | g)", data, client=0) for data in (frame, frame.astype({"g": width})))
    assert plain.digest == other.digest
    (group,) = plain.groups
    for levels in (group.levels.astype(width), group.levels + 1):
        same = np.array_equal(levels, group.levels)
        assert (replace(plain, groups=(replace(group, levels=levels),)).digest == plain.digest) is same


def test_digest_does_not_depend_on_where_the_files_are(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        read_data("sleepstudy").to_parquet(tmp_path / name / f"{name}.parquet")
        found.append(bigmm.reduce("Reaction ~ Days + (Days | Subject)", tmp_path / name))
    assert found[0].digest == found[1].digest
    assert found[0].plan_digest != found[1].plan_digest


def test_digest_is_computed_once_and_not_before_it_is_asked_for(cp: bigmm.CrossProducts, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("bigmm.storage.content_digest", lambda cp: calls.append(cp) or "digest")
    total = bigmm.merge([cp, cp, cp]) - cp
    assert calls == []
    assert total.digest == total.digest == "digest"
    assert len(calls) == 1


@pytest.mark.parametrize("kind", LEVELS)
def test_digest_survives_the_disk(kind: str, tmp_path: Path) -> None:
    cp = bigmm.reduce("y ~ x * k + (x | g) + (1 | g:k)", rows(LEVELS[kind]), weights="w")
    for number, each in enumerate((cp, cp - bigmm.reduce("y ~ x * k + (x | g) + (1 | g:k)", rows(LEVELS[kind])[:40], weights="w"))):
        each.save(tmp_path / str(number))
        loaded = bigmm.load(tmp_path / str(number))
        assert isinstance(loaded, bigmm.CrossProducts)
        assert loaded.digest == each.digest == pickle.loads(pickle.dumps(each)).digest
        assert json.loads((tmp_path / str(number) / "crossproducts.json").read_text())["digest"] == each.digest


@pytest.mark.parametrize(
    "change",
    [
        {"sum_log_weights": 1.0},
        {"rows": {"read": 181, "used": 180, "missing": {}}},
        {"digest": "0" * 64},
        {"columns": [[["Days"], []], [[], []]]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_does_not_fit_the_digest(change: dict[str, Any], saved: Path) -> None:
    """The files are undamaged; what the manifest says itself is not."""
    edit(saved / "crossproducts", "crossproducts", lambda record: record.update(change))
    assert_unreadable(saved / "crossproducts", "is damaged: its content has digest [0-9a-f]{64}, expected [0-9a-f]{64}; write it again")


# Nothing is pickled ---------------------------------------------------------------------------------------------------


def test_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cp = bigmm.reduce("y ~ x * k + (1 | g) + (1 | g:k)", rows(LEVELS["unicode"]))
    fit = cp.fit()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something is pickled")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    cp.save(tmp_path / "cp")
    fit.save(tmp_path / "fit")
    bigmm.load(tmp_path / "cp")
    bigmm.load(tmp_path / "fit")

    files = [file for folder in ("cp", "fit") for file in (tmp_path / folder).iterdir()]
    assert {file.suffix for file in files} == {".json", ".npz", ".parquet"}
    for file in files:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert not any(array.dtype.hasobject for array in arrays.values())
        elif file.suffix == ".parquet":
            assert not any(pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) for field in pq.read_schema(file))
        else:
            json.loads(file.read_text(encoding="utf-8"))


# What may be overwritten ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["crossproducts", "fit"])
def test_what_others_put_there_is_not_removed(kind: str, saved: Path) -> None:
    """A directory is replaced as a whole."""
    found = bigmm.load(saved / kind)
    (saved / kind / ".DS_Store").touch()
    found.save(saved / kind)
    (saved / kind / "part-0.parquet").write_text("rows")
    (saved / kind / ".git").mkdir()
    message = r"holds '\.git/', 'part-0\.parquet', which bigmm has not written and would remove: move it"
    with pytest.raises(bigmm.StorageError, match=message):
        found.save(saved / kind)
    assert (saved / kind / "part-0.parquet").read_text() == "rows"
    assert type(bigmm.load(saved / kind)) is type(found)
    manifest = saved / kind / MANIFESTS[kind]
    manifest.write_text(manifest.read_text()[:-100])  # damaged: what bigmm writes is known by its names
    with pytest.raises(bigmm.StorageError, match=message):
        found.save(saved / kind)
    (saved / kind / "part-0.parquet").unlink()
    (saved / kind / ".git").rmdir()
    found.save(saved / kind)
    assert type(bigmm.load(saved / kind)) is type(found)


@pytest.mark.parametrize("text", ["{}", "[]", '{"mine": 1}'])
@pytest.mark.parametrize("kind", ["crossproducts", "fit"])
def test_a_file_of_another_program_with_a_name_of_ours(kind: str, text: str, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / MANIFESTS[kind]).write_text(text)
    with pytest.raises(bigmm.StorageError, match=f"holds '{MANIFESTS[kind]}', which bigmm has not written"):
        bigmm.load(saved / kind).save(tmp_path / "theirs")
    assert (tmp_path / "theirs" / MANIFESTS[kind]).read_text() == text


def test_what_others_put_at_a_url_is_not_removed(cp: bigmm.CrossProducts) -> None:
    store, url = fsspec.filesystem("memory"), f"memory://{uuid.uuid4()}/cp"
    cp.save(url)
    for left in ("unfinished", "levels-7.parquet", f".bigmm-{uuid.uuid4().hex}"):  # of uploads that ended before they had cleared up
        store.pipe_file(f"{url}/{left}", b"")
    cp.save(url)
    assert not store.exists(f"{url}/levels-7.parquet")
    store.pipe_file(f"{url}/notes.txt", b"mine")
    with pytest.raises(bigmm.StorageError, match=r"holds 'notes\.txt', which bigmm has not written and would remove"):
        cp.save(url)
    assert store.cat_file(f"{url}/notes.txt") == b"mine"
    store.rm_file(f"{url}/notes.txt")
    cp.save(url)


def test_a_mount_point_is_told_before_the_work(cp: bigmm.CrossProducts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda place: Path(place) == tmp_path / "volume")
    (tmp_path / "volume").mkdir()
    with pytest.raises(bigmm.StorageError, match="is a mount point, which cannot be replaced: choose a directory inside it"):
        cp.save(tmp_path / "volume")
    cp.save(tmp_path / "volume" / "cp")


def test_same_kind_is_replaced(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    (cp + cp).save(place)
    cp.save(place)
    assert_equal(bigmm.load(place), cp)
    place = tmp_path / "fit"
    cp.fit(reml=False).save(place)
    cp.fit().save(place)
    assert bigmm.load(place).reml
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit", "saved"]


def test_an_empty_directory_is_filled(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    (tmp_path / "cp").mkdir()
    cp.save(tmp_path / "cp")
    assert_equal(bigmm.load(tmp_path / "cp"), cp)


@pytest.mark.parametrize("there", ["fit", "file", "folder"])
def test_other_things_are_not_replaced(there: str, cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if there == "fit":
        cp.fit().save(place)
    elif there == "file":
        place.write_text("precious")
    else:
        place.mkdir()
        (place / "notes.txt").write_text("precious")
    before = _contents(tmp_path)
    with pytest.raises(bigmm.StorageError, match="exists and holds something else than saved crossproducts: choose another place"):
        cp.save(place)
    assert _contents(tmp_path) == before


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_fit_does_not_replace_crossproducts(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    cp.save(tmp_path / "place")
    with pytest.raises(bigmm.StorageError, match="something else than saved fit"):
        cp.fit().save(tmp_path / "place")
    assert_equal(bigmm.load(tmp_path / "place"), cp)


class Interruption(BaseException):
    """Not an Exception, like KeyboardInterrupt."""


@pytest.mark.parametrize("error", [OSError("no space left"), Interruption()], ids=["full", "interrupted"])
@pytest.mark.parametrize(
    "step", ["numpy.savez", "pandas.DataFrame.to_parquet", "bigmm.storage.products.write_manifest", "bigmm.storage.directories._sync"]
)
@pytest.mark.parametrize("there", [True, False], ids=["replacing", "new"])
def test_all_or_nothing(
    there: bool, step: str, error: BaseException, cp: bigmm.CrossProducts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cp"
    if there:
        cp.save(place)
    before = _contents(tmp_path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(step, fail)
        with pytest.raises(type(error)):
            (cp + cp).save(place)
    assert _contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["cp"] * there
    if there:
        assert_equal(bigmm.load(place), cp)


def test_the_old_one_comes_back_when_the_new_one_cannot_be_moved(
    cp: bigmm.CrossProducts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cp"
    cp.save(place)
    rename = Path.rename

    def fail_into_place(self: Path, target: Path) -> Path:
        if self.parent == place.parent and target == place:
            raise OSError("no")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr("bigmm.storage.directories._exchanged", lambda *_: False)
        patched.setattr(Path, "rename", fail_into_place)
        with pytest.raises(bigmm.StorageError, match=r"cannot write beside .*cp' \(no\): choose another place"):
            (cp + cp).save(place)
    assert_equal(bigmm.load(place), cp)
    assert [path.name for path in tmp_path.iterdir()] == ["cp"]


def test_a_place_that_cannot_be_written(cp: bigmm.CrossProducts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(bigmm.StorageError, match=r"cannot write beside .*: choose another place"):
        cp.save(tmp_path / "file" / "cp")


# What cannot be read --------------------------------------------------------------------------------------------------

both_kinds = pytest.mark.parametrize("kind", MANIFESTS)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    cp = bigmm.reduce("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"))
    cp.save(folder / "crossproducts")
    cp.fit().save(folder / "fit")
    return folder


@pytest.fixture
def saved(originals: Path, tmp_path: Path) -> Path:
    """A directory with one of each, to be damaged."""
    return shutil.copytree(originals, tmp_path / "saved")


def assert_unreadable(folder: Path, match: str) -> None:
    with pytest.raises(bigmm.StorageError, match=match) as caught:
        bigmm.load(folder)
    assert "\n" not in str(caught.value)
    assert folder.name in str(caught.value)


def edit(folder: Path, kind: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / MANIFESTS[kind]
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    if "seal" in record:
        record["seal"] = _seal(record)
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "found"), [(None, "nothing"), ("", "nothing"), (5, "int"), (b"cp", "bytes"), (pd.DataFrame(), "DataFrame")], ids=repr
)
def test_no_path(path: Any, found: str, originals: Path) -> None:
    for call in (bigmm.load, bigmm.load(originals / "crossproducts").save, bigmm.load(originals / "fit").save):
        with pytest.raises(bigmm.StorageError, match=f"found {found} for a path"):
            call(path)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"], ids=["too long", "null"])
def test_impossible_path(path: str, originals: Path) -> None:
    for call in (bigmm.load, bigmm.load(originals / "crossproducts").save):
        with pytest.raises(bigmm.StorageError, match="cannot be a path"):
            call(path)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_leads_to_what_is_written(there: bool, originals: Path, tmp_path: Path) -> None:
    """Whoever reads the target sees the new crossproducts, and nothing is left beside."""
    first, second = bigmm.load(originals / "crossproducts"), bigmm.load(originals / "crossproducts")
    if there:
        first.save(tmp_path / "far" / "week.cp")
    (tmp_path / "week.cp").symlink_to(tmp_path / "far" / "week.cp")
    (second + second).save(tmp_path / "week.cp")
    assert bigmm.load(tmp_path / "far" / "week.cp").nobs == bigmm.load(tmp_path / "week.cp").nobs == 2 * first.nobs
    assert (tmp_path / "week.cp").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["far", "week.cp"]


def test_the_current_directory_keeps_its_place(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path):
        with pytest.raises(bigmm.StorageError, match="is the current directory"):
            bigmm.load(originals / "crossproducts").save(path)
    (tmp_path / "cp" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cp" / "inner")
    with pytest.raises(bigmm.StorageError, match="is the current directory, or holds it"):
        bigmm.load(originals / "crossproducts").save("..")
    assert os.getcwd() == str(tmp_path / "cp" / "inner")


def test_a_current_directory_that_was_removed(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    bigmm.load(originals / "crossproducts").save(tmp_path / "new")
    assert bigmm.load(tmp_path / "new").nobs == bigmm.load(originals / "crossproducts").nobs


def test_a_link_that_leads_to_itself(originals: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(bigmm.StorageError, match="is a link that leads to itself"):
        bigmm.load(originals / "crossproducts").save(tmp_path / "loop")


def test_nothing(tmp_path: Path) -> None:
    assert_unreadable(tmp_path / "nothing", "does not exist: check the path")


@pytest.mark.parametrize("name", ["file.parquet", "folder"])
def test_something_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.parquet").write_text("rows")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "arrays.npz").write_text("arrays")
    assert_unreadable(tmp_path / name, "holds neither crossproducts nor a fit")


@both_kinds
def test_damaged_files(kind: str, saved: Path) -> None:
    folder = saved / kind
    for file in sorted(folder.iterdir()):
        if file.name in MANIFESTS.values():
            continue
        content = file.read_bytes()
        flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        for damaged in (flipped, content[: len(content) // 2], b""):
            file.write_bytes(damaged)
            assert_unreadable(folder, f"{file.name}' is damaged: write the directory again")
        file.unlink()
        assert_unreadable(folder, f"{file.name}' is missing: write the directory again")
        file.write_bytes(content)
    bigmm.load(folder)


@both_kinds
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "3", '"text"', "\ufffe", '{"format": "1"}', '{"format": 2, "files": 3}'])
def test_damaged_manifest(kind: str, text: str, saved: Path) -> None:
    (saved / kind / MANIFESTS[kind]).write_text(text, encoding="utf-16" if text == "\ufffe" else "utf-8")
    assert_unreadable(saved / kind, "is damaged .*: write it again")


@both_kinds
def test_truncated_manifest(kind: str, saved: Path) -> None:
    path = saved / kind / MANIFESTS[kind]
    content = path.read_bytes()
    for part in (0.1, 0.5, 0.99):
        path.write_bytes(content[: int(part * len(content))])
        assert_unreadable(saved / kind, "is damaged")


@both_kinds
def test_every_entry_of_the_manifest_is_needed(kind: str, saved: Path) -> None:
    read_by_others = {
        "crossproducts": {"kind"},
        "fit": {"kind", "varcorr", "loglik", "aic", "bic", "nobs", "ngroups", "singular", "converged"},
    }
    path = saved / kind / MANIFESTS[kind]
    content = path.read_text(encoding="utf-8")
    for key in sorted(set(json.loads(content)) - read_by_others[kind] - {"written_by"}):
        edit(saved / kind, kind, lambda record, key=key: record.pop(key))
        assert_unreadable(saved / kind, "is damaged")
        path.write_text(content, encoding="utf-8")


@both_kinds
@pytest.mark.parametrize(("number", "remedy"), [(3, "make it again with this version"), (5, "update bigmm")])
def test_other_formats(kind: str, number: int, remedy: str, saved: Path) -> None:
    edit(saved / kind, kind, lambda record: record.update(format=number, written_by="bigmm 9.0"))
    assert_unreadable(saved / kind, f"was written by bigmm 9.0 in format {number}: expected format 4; {remedy}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@both_kinds
@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/../../secret", "..", "."])
def test_files_outside_the_directory(kind: str, name: str, saved: Path) -> None:
    (saved / "secret").write_text("secret")
    outside = (saved / kind / name).resolve()
    digest = _sha256(outside) if outside.is_file() else "0"
    edit(saved / kind, kind, lambda record: record["files"].update({name: digest}))
    assert_unreadable(saved / kind, "outside the directory|is missing")


@pytest.mark.parametrize("absolute", [False, True])
def test_random_effects_from_elsewhere(absolute: bool, saved: Path) -> None:
    inside = next((saved / "fit").glob("ranef-*.parquet"))
    elsewhere = saved / "elsewhere.parquet"
    shutil.copy(inside, elsewhere)
    name = str(elsewhere) if absolute else "../elsewhere.parquet"
    edit(saved / "fit", "fit", lambda record: record["ranef"].update(Subject=name))
    assert_unreadable(saved / "fit", "is damaged")


@both_kinds
def test_every_file_is_checked(kind: str, saved: Path) -> None:
    edit(saved / kind, kind, lambda record: record.update(files={}))
    assert_unreadable(saved / kind, "is damaged")


def test_pickled_arrays_are_refused(saved: Path) -> None:
    folder = saved / "crossproducts"
    with np.load(folder / "arrays.npz") as arrays:
        content = dict(arrays)
    content["XytXy"] = np.array([[{"a": 1}]], dtype=object)
    np.savez(folder / "arrays.npz", **content)
    edit(folder, "crossproducts", lambda record: record["files"].update({"arrays.npz": _sha256(folder / "arrays.npz")}))
    assert_unreadable(folder, "is damaged: .* has another size than it says")
