"""`bigmm doctor` at clusters that are ill: a line that says what is wrong and what to do, exit code 2, in bounded time."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
import yaml
from distributed import Client

from tests.foreign_cluster import NO_BIGMM, OTHER_BIGMM, Cluster
from tests.test_cli import run

MAKE_CERTS = Path(__file__).parents[1] / "deploy/tls/make_certs.sh"
PATIENCE = {"bigmm.timeouts.connect": "1 s", "bigmm.timeouts.no-answer": "2 s"}
#: Seconds in which it ends with these timeouts, on a busy machine.
BOUND = 30.0


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """The loops of its fit are compiled once, which takes minutes on a busy machine and is not what is bounded."""
    run("doctor")


def complaint(*arguments: str, settings: dict[str, Any] | None = None) -> tuple[str, str]:
    """The line that needs attention, and what to do."""
    started = time.monotonic()
    with dask.config.set({**PATIENCE, **(settings or {})}):
        result = run("doctor", *arguments)
    assert time.monotonic() - started < BOUND
    assert (result.exit_code, result.stderr) == (2, "bigmm: error: 1 of these need attention\n"), result.stdout
    lines = result.stdout.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith(" ")]
    return lines[number - 1], lines[number].strip()


def tls_settings(folder: Path) -> dict[str, Any]:
    """What is set already, and what names the certificates."""
    settings: dict[str, Any] = dask.config.merge(dask.config.config, yaml.safe_load((folder / "tls.yaml").read_text()))
    return {"distributed": settings["distributed"]}


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")


def certificates(folder: Path, change: Callable[[str], str] = str) -> Path:
    """Certificates of the script, with a change of it."""
    script = folder.with_suffix(".sh")
    script.write_text(change(MAKE_CERTS.read_text()))
    subprocess.run(["sh", str(script), str(folder)], check=True, capture_output=True)
    return folder


def expire(script: str) -> str:
    """Certificates that ended a day ago, of an authority that is valid."""
    assert '-days "$days" -extfile' in script
    return script.replace('-days "$days" -extfile', "-days -1 -extfile")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a socket that takes connections, as a firewall or a tunnel may, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_packets_that_are_dropped(silent: int) -> None:
    line, remedy = complaint("--scheduler", f"tcp://127.0.0.1:{silent}")
    assert f"no Dask scheduler answers at 'tcp://127.0.0.1:{silent}' (it takes connections, but has said nothing for 1 s)" in line
    assert remedy == "-> check the address and that the scheduler runs"


@needs_openssl
def test_packets_that_are_dropped_under_tls(silent: int, tmp_path: Path) -> None:
    settings = tls_settings(certificates(tmp_path / "tls"))
    line, remedy = complaint("--scheduler", f"tls://127.0.0.1:{silent}", settings=settings)
    assert f"no Dask scheduler answers at 'tls://127.0.0.1:{silent}' (Timed out trying to connect" in line
    assert remedy == "-> check the address and that the scheduler runs"


def serve_tls(listening: socket.socket, folder: Path) -> None:
    """Take one connection after another, as far as the handshake, until the socket is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "scheduler.pem", folder / "scheduler-key.pem")
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(10)
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                continue


@needs_openssl
def test_an_expired_certificate(tmp_path: Path) -> None:
    folder = certificates(tmp_path / "tls", expire)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve_tls, args=(listening, folder), daemon=True)
        server.start()
        line, remedy = complaint("--scheduler", f"tls://127.0.0.1:{listening.getsockname()[1]}", settings=tls_settings(folder))
        listening.shutdown(socket.SHUT_RDWR)
        server.join()
    assert "certificate has expired" in line
    assert remedy.startswith("-> see that scheduler and client have certificates of the same authority that are still valid")


def test_no_certificate_at_all(silent: int) -> None:
    line, remedy = complaint("--scheduler", f"tls://127.0.0.1:{silent}")
    assert "TLS expects" in line
    assert "(DASK_CONFIG, deploy/README.md)" in remedy


@pytest.mark.cluster
@pytest.mark.parametrize(("preload", "version"), [(NO_BIGMM, "none"), (OTHER_BIGMM, "0.0.9")])
def test_workers_with_another_bigmm_or_none(cluster: Cluster, preload: str, version: str) -> None:
    cluster.scheduler()
    cluster.worker(preload=preload)
    line, remedy = complaint("--scheduler", str(cluster.file), settings={"bigmm.timeouts.no-answer": "20 s"})
    assert line.startswith("bigmm    ")
    assert f" here, but {version} on tcp://127.0.0.1:" in line
    assert remedy == "-> install the same version everywhere"


@pytest.mark.cluster
def test_a_worker_that_hangs(cluster: Cluster) -> None:
    cluster.scheduler()
    cluster.worker()
    with Client(scheduler_file=str(cluster.file), set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        (pid,) = client.run(lambda: __import__("os").getpid()).values()
    psutil.Process(pid).send_signal(signal.SIGSTOP)
    line, remedy = complaint("--scheduler", str(cluster.file))
    assert " or the scheduler, has not answered for 2 s" in line
    assert remedy == "-> stop processes that hang, and run again"


@pytest.mark.cluster
def test_no_worker(cluster: Cluster) -> None:
    cluster.scheduler()
    line, remedy = complaint("--scheduler", str(cluster.file), settings={"bigmm.timeouts.first-worker": "1 s"})
    assert "has had no worker for 1 s" in line
    assert remedy == "-> start workers and run again"
