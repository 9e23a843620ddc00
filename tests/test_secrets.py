"""Secrets reach the libraries that need them, and nothing that a person or a file keeps."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import dask
import fsspec
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from fsspec.implementations.memory import MemoryFileSystem

import bigmm
from bigmm.accounting import Origin
from bigmm.reduction.sources import plan_data
from tests.test_cli import run

FORMULA = "y ~ x + (1 | g)"
KEY, SECRET, TOKEN = "AKIA0KEYTHATNOBODYSEES", "secret/that+nobody/sees", "token-that-nobody-sees"
PRIVATE = "PRIVATE-BYTES-THAT-NOBODY-SEES"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}


class Vault(MemoryFileSystem):
    """A store that opens for who has the key, takes it from a URL as well, and is careless in its errors."""

    protocol = "vault"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    broken: ClassVar[bool] = False

    def __init__(self, key: str = "", secret: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.key, self.secret = key, secret

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        text = path.removeprefix("vault://")
        return "/" + text.rpartition("@")[2].strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        user, at, _ = path.removeprefix("vault://").rpartition("@")
        key, _, secret = user.partition(":")
        return {"key": key, "secret": secret} if at else {}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if (self.key, self.secret) != (KEY, SECRET):
            raise PermissionError(f"vault://{self.key}:{self.secret}@{path}")
        if self.broken and path.endswith("1.parquet") and mode == "rb":
            raise OSError(f"no answer of vault://{self.key}:{self.secret}@shop{path}?token={TOKEN}")
        return super()._open(path, mode, **options)


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a folder of Parquet files, without the key; the environment has secrets."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    fsspec.register_implementation("vault", Vault, clobber=True)
    store = Vault(key=KEY, secret=SECRET)
    rng = np.random.default_rng(1)
    for number in range(3):
        part = pd.DataFrame({"g": rng.integers(0, 6, 50), "x": rng.normal(size=50), "y": rng.normal(size=50)})
        store.pipe_file(f"/rows/{number}.parquet", part.to_parquet(index=False))
    yield "vault://rows"
    Vault.store.clear()
    Vault.clear_instance_cache()


def with_key(url: str) -> str:
    return url.replace("vault://", f"vault://{KEY}:{SECRET}@")


def assert_clean(text: str) -> None:
    for secret in (KEY, SECRET, TOKEN, PRIVATE):
        assert secret not in text


def assert_clean_files(folder: Path) -> None:
    """Bytes as they are, and what compression hides."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_clean(path.read_bytes().decode("latin-1"))
        if path.suffix == ".parquet":
            assert_clean(pd.read_parquet(path).to_csv())


OPTIONS = {"key": KEY, "secret": SECRET}


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_saved_and_logged(vault: str, inside: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The key in the options, or inside of the URL."""
    caplog.set_level(logging.DEBUG)
    url, options = (with_key(vault), None) if inside else (vault, OPTIONS)
    cp = bigmm.reduce(FORMULA, url, client=0, checkpoint=tmp_path / "checkpoint", storage_options=options)
    assert cp.rows.used == 150
    cp.save(tmp_path / "cp")
    fit = cp.fit()
    fit.save(tmp_path / "fit")
    bigmm.load(tmp_path / "cp")
    assert_clean_files(tmp_path)
    plan = plan_data(url, ("g", "x", "y"), storage_options=options)
    assert_clean(f"{cp!r} {cp} {fit!r} {fit} {cp.sources!r} {plan!r} {caplog.text}")
    assert any(isinstance(origin, Origin) for chunk in plan.chunks for origin in chunk.origins)
    assert "reducing 3 chunks" in caplog.text


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("on_cluster", [False, True])
def test_errors_and_their_causes(
    vault: str, inside: bool, on_cluster: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store's own error has the key in it; a worker logs the arguments of a task that failed."""
    caplog.set_level(logging.DEBUG)
    url, options = (with_key(vault), None) if inside else (vault, OPTIONS)
    plan_data(url, ("g", "x", "y"), storage_options=options)
    monkeypatch.setattr(Vault, "broken", True)
    if on_cluster:
        with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
            error = caught(url, options, client)
    else:
        error = caught(url, options, 0)
    assert "rows/1.parquet" in str(error)
    assert_clean("".join(traceback.format_exception(error)))
    assert_clean(caplog.text)


def caught(url: str, options: dict[str, str] | None, client: Any) -> Exception:
    with pytest.raises(bigmm.DataError, match="no answer of") as found:
        bigmm.reduce(FORMULA, url, client=client, storage_options=options)
    return found.value


def test_a_wrong_key(vault: str) -> None:
    with pytest.raises(bigmm.DataError, match="no permission to read") as found:
        bigmm.reduce(FORMULA, with_key(vault).replace(SECRET, TOKEN), client=0)
    assert_clean("".join(traceback.format_exception(found.value)))


def test_a_job_that_succeeds(vault: str, tmp_path: Path) -> None:
    log, report = tmp_path / "log.json", tmp_path / "report.html"
    options = ("--workers", "0", "-v", "--log-json", log, "--report", report, "--checkpoint", tmp_path / "checkpoint")
    result = run("reduce", FORMULA, with_key(vault), *options, "--out", tmp_path / "cp")
    assert result.exit_code == 0, result.stderr
    assert_clean(result.stdout + result.stderr)
    assert_clean_files(tmp_path)
    assert json.loads(log.read_text().splitlines()[0])["arguments"]["data"] == [vault]
    shown = run("inspect", tmp_path / "cp", "--files")
    assert_clean(shown.stdout + shown.stderr)


@pytest.mark.parametrize("verbose", [(), ("-v",)])
@pytest.mark.parametrize("extra", [(), ("--no-such-option",)])
def test_a_job_that_fails(
    vault: str, extra: tuple[str, ...], verbose: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vault, "broken", True)
    log, report = tmp_path / "log.json", tmp_path / "report.html"
    options = ("--workers", "0", "--log-json", log, "--report", report, *verbose, *extra)
    result = run("reduce", FORMULA, with_key(vault), "--out", with_key(f"{vault}/cp"), *options)
    assert result.exit_code == 2
    assert_clean(result.stdout + result.stderr)
    for path in (log, report):
        assert_clean(path.read_text() if path.exists() else "")


def test_an_unexpected_error(vault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"cannot go on with {with_key(vault)}")

    monkeypatch.setattr("bigmm.reduction.reduce.check_magnitudes", fail)
    result = run("reduce", FORMULA, with_key(vault), "--workers", "0", "-v", "--out", tmp_path / "cp")
    assert (result.exit_code, "unexpected RuntimeError: cannot go on with vault://rows" in result.stderr) == (1, True)
    assert "Traceback" in result.stderr
    assert_clean(result.stderr)


def test_a_surplus_argument_is_shown_without_its_password(vault: str) -> None:
    result = run("summary", "a.fit", with_key(vault))
    assert result.exit_code == 2
    assert_clean(result.stdout + result.stderr)


def test_files_of_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the bytes of a key nor what cannot be parsed of them."""
    caplog.set_level(logging.DEBUG)
    pem = tmp_path / "key.pem"
    pem.write_text(f"-----BEGIN PRIVATE KEY-----\n{PRIVATE}\n-----END PRIVATE KEY-----\n")
    setting = {"ca-file": str(pem), "client": {"cert": str(pem), "key": str(pem)}}
    with dask.config.set({"distributed.comm.tls": setting, "distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(bigmm.BigmmError) as found:
            bigmm.reduce(FORMULA, str(tmp_path / "none.parquet"), client="tls://127.0.0.1:1")
        printed = run("doctor", "--scheduler", "tls://127.0.0.1:1", "-v")
    assert_clean("".join(traceback.format_exception(found.value)) + printed.stdout + printed.stderr + caplog.text)
