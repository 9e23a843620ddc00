"""Object stores: rows, crossproducts, fits, predictions and checkpoints at s3:// URLs, against moto's server over HTTP on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("moto", reason="moto is not installed: tests/deploy/setup.sh")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: tests/deploy/setup.sh")

import bigmm  # noqa: E402
from bigmm.errors import DataError, StorageError  # noqa: E402
from bigmm.reduction.progress import Progress  # noqa: E402
from bigmm.reduction.work import BATCH  # noqa: E402

FORMULA = "y ~ x + (x | g) + (1 | h)"
CHUNKS = 40
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA0KEYTHATNOBODYSEES",
    "AWS_SECRET_ACCESS_KEY": "secret-that-nobody-sees",
    "AWS_SESSION_TOKEN": "token-that-nobody-sees",
}


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of a server that holds an empty bucket."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(f"http://127.0.0.1:{port}/moto-api/")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait(url: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    raise AssertionError("moto's server did not start")


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket; what opens it is in the environment alone."""
    for name, value in {**SECRETS, "AWS_ENDPOINT_URL": store, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    name = f"bigmm-{os.urandom(4).hex()}"
    filesystem.mkdir(name)
    yield f"s3://{name}"
    filesystem.rm(name, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    rng = np.random.default_rng(1)
    for number in range(CHUNKS):
        part = pd.DataFrame({"g": rng.integers(0, 20, 40), "h": rng.choice(list("abc"), 40), "x": rng.normal(size=40)})
        part.assign(y=part["x"] + rng.normal(size=40)).to_parquet(folder / f"{number}.parquet", index=False)
    return folder


@pytest.fixture
def rows(bucket: str, files: Path) -> str:
    """The URL of a folder of Parquet files."""
    s3fs.S3FileSystem().put(f"{files}/", f"{bucket}/rows/", recursive=True)
    return f"{bucket}/rows"


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    """Everything that a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "bigmm", *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def manifest(directory: str) -> dict[str, object]:
    """What saved crossproducts are, but for where their rows are: the plan's digest, the sources and the seal know names."""
    filesystem = s3fs.S3FileSystem() if directory.startswith("s3:") else fsspec.filesystem("file")
    found = json.loads(filesystem.cat_file(f"{directory}/crossproducts.json"))
    del found["plan_digest"], found["seal"], found["files"]["sources.parquet"]
    return dict(found)


def test_a_job_from_rows_to_predictions(rows: str, bucket: str, files: Path, tmp_path: Path) -> None:
    """The results are those of the same rows on disk, to the bit; credentials are in no message and in no object."""
    local = bigmm.reduce(FORMULA, files)
    local.save(tmp_path / "cp")
    said = run("reduce", FORMULA, rows, "--workers", "2", "--checkpoint", f"{bucket}/ck", "--out", f"{bucket}/cp", "-v")
    assert manifest(f"{bucket}/cp") == manifest(str(tmp_path / "cp"))
    said += run("fit", "-", f"{bucket}/cp", "--out", f"{bucket}/fit", "-v")
    found, expected = bigmm.load(f"{bucket}/fit"), local.fit()
    assert isinstance(found, bigmm.inference.fit.LinearMixedModelFit)
    assert found.theta.tolist() == expected.theta.tolist()
    assert found.ranef()["g"].equals(expected.ranef()["g"])
    said += run("summary", f"{bucket}/fit", "-v")
    assert expected.summary() in said
    said += run("predict", f"{bucket}/fit", f"{rows}/0.parquet", "--out", f"{bucket}/predicted.parquet", "-v")
    with s3fs.S3FileSystem().open(f"{bucket}/predicted.parquet") as file:
        predicted = pd.read_parquet(file)["prediction"]
    assert predicted.tolist() == expected.predict(pd.read_parquet(files / "0.parquet")).tolist()
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    stored = b"".join(map(filesystem.cat_file, filesystem.find(bucket)))
    with filesystem.open(f"{bucket}/cp/sources.parquet") as file:  # compressed
        stored += pd.read_parquet(file).to_csv().encode()
    for secret in SECRETS.values():
        assert secret not in said
        assert secret.encode() not in stored


def test_a_killed_pass_goes_on_from_its_copy(rows: str, bucket: str) -> None:
    expected = bigmm.reduce(FORMULA, rows)
    checkpoint = f"{bucket}/ck"
    index = f"{checkpoint}/checkpoint.json"

    class StopError(Exception):
        pass

    def stop(_: Progress) -> None:
        s3fs.S3FileSystem().invalidate_cache()
        if s3fs.S3FileSystem().exists(index):
            raise StopError

    with pytest.raises(StopError):
        bigmm.reduce(FORMULA, rows, checkpoint=checkpoint, progress=stop)
    with pytest.raises(StorageError, match=rf"{checkpoint}.*holds a checkpoint"):
        bigmm.reduce(FORMULA, rows, checkpoint=checkpoint, resume=False)
    with pytest.raises(StorageError, match=rf"{checkpoint}.*was made for other formula"):
        bigmm.reduce("y ~ 1 + (1 | g)", rows, checkpoint=checkpoint)
    s3fs.S3FileSystem().pipe(f"{checkpoint}/000016-000032.0/crossproducts.json", b"left behind by a process that was killed")
    seen: list[Progress] = []
    found = bigmm.reduce(FORMULA, rows, checkpoint=checkpoint, progress=seen.append)
    assert seen[0].done >= BATCH
    assert found.XytXy.tobytes() == expected.XytXy.tobytes()
    assert all(a.ZtXy.tobytes() == b.ZtXy.tobytes() for a, b in zip(found.groups, expected.groups, strict=True))
    filesystem = s3fs.S3FileSystem()
    filesystem.invalidate_cache()
    named = {name for segment in json.loads(filesystem.cat(index))["segments"] for name in segment["slices"]}
    assert {path.rpartition("/")[2] for path in filesystem.ls(checkpoint)} == named | {"checkpoint.json", "lock"}


def test_what_is_replaced_is_whole_or_gone(bucket: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cp = bigmm.reduce(FORMULA, files)
    cp.save(f"{bucket}/cp")
    s3fs.S3FileSystem().pipe(f"{bucket}/cp/levels-9.parquet", b"of an earlier one")
    cp.save(f"{bucket}/cp")
    assert "levels-9.parquet" not in str(s3fs.S3FileSystem(skip_instance_cache=True).ls(f"{bucket}/cp"))
    upload = s3fs.S3FileSystem._put_file

    async def fail(self: object, local: str, target: str, *arguments: object, **options: object) -> None:
        if target.endswith(".npz"):
            raise OSError("the line is cut")
        await upload(self, local, target, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_put_file", fail)
        s3fs.S3FileSystem.clear_instance_cache()  # an instance keeps the method that it was made with
        with pytest.raises(StorageError, match=r"cannot write .*the line is cut"):
            cp.save(f"{bucket}/cp")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="holds neither crossproducts nor a fit"):
        bigmm.load(f"{bucket}/cp")
    # the manifest's digests find an object that was damaged
    cp.save(f"{bucket}/cp")
    assert "unfinished" not in str(s3fs.S3FileSystem(skip_instance_cache=True).ls(f"{bucket}/cp"))
    s3fs.S3FileSystem().pipe(f"{bucket}/cp/levels-0.parquet", b"damaged")
    with pytest.raises(StorageError, match=rf"'{bucket}/cp/levels-0.parquet' is damaged"):
        bigmm.load(f"{bucket}/cp")


def test_mistakes_are_found_before_the_pass(rows: str, bucket: str) -> None:
    assert "is one of the data, or among them" in run("reduce", FORMULA, rows, "--out", rows, code=2)
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(f"{bucket}/theirs/notes.txt", b"mine")
    assert "holds something else than saved crossproducts" in run("reduce", FORMULA, rows, "--out", f"{bucket}/theirs", code=2)
    with pytest.raises(StorageError, match="exists and is no checkpoint"):
        bigmm.reduce(FORMULA, rows, checkpoint=f"{bucket}/theirs")
    said = run("reduce", FORMULA, rows, "--out", "s3://bigmm-there-is-no-such-bucket/cp", code=2)
    assert "cannot write 's3://bigmm-there-is-no-such-bucket/cp'" in said
    assert not s3fs.S3FileSystem(skip_instance_cache=True).exists("bigmm-there-is-no-such-bucket")
    with pytest.raises(DataError, match="does not exist"):
        bigmm.reduce(FORMULA, f"{bucket}/absent.parquet")


def test_a_store_that_does_not_answer(rows: str, bucket: str) -> None:
    said = run("fit", FORMULA, rows, "--out", f"{bucket}/fit", code=2, AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1")
    assert said.count("\n") == 1
    assert "127.0.0.1:9" in said
    for secret in SECRETS.values():
        assert secret not in said
