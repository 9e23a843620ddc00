"""Mutual TLS with the certificates of deploy/tls/: who is refused, who gets in, what is open to the network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import bigmm

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine"),
]

DEPLOY = Path(__file__).parents[2] / "deploy"
DATA = DEPLOY.parent / "tests/data/sleepstudy.csv"
FORMULA = "Reaction ~ Days + (Days | Subject)"


@dataclass(frozen=True)
class Cluster:
    """A scheduler and a worker that run."""

    address: str
    file: Path
    processes: tuple[subprocess.Popen[bytes], ...]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def listeners(self) -> set[tuple[str, int]]:
        """Addresses on which any of the processes, or of their children, waits for connections."""
        roots = [psutil.Process(process.pid) for process in self.processes]
        family = [*roots, *(child for root in roots for child in root.children(recursive=True))]
        found = [connection for process in family for connection in _connections(process) if connection.status == "LISTEN"]
        return {(connection.laddr.ip, connection.laddr.port) for connection in found}


def _connections(process: psutil.Process) -> list[Any]:
    """None of a process that has ended since it was listed: Dask starts some that soon do."""
    try:
        return process.net_connections("inet")
    except psutil.NoSuchProcess:
        return []


def certificates(folder: Path) -> Path:
    subprocess.run(["sh", str(DEPLOY / "tls/make_certs.sh"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Path:
    return certificates(folder / "ours")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Path:
    """Certificates of another authority, which has the same name."""
    return certificates(folder / "theirs")


@pytest.fixture(scope="module")
def cluster(folder: Path, ours: Path) -> Iterator[Cluster]:
    """Started as the scripts in deploy/ start it."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    flags = ["--protocol", "tls", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    processes = []
    try:
        for command in (["scheduler", "--port", "0"], ["worker", "--nthreads", "1", "--local-directory", str(folder)]):
            processes.append(
                subprocess.Popen(
                    [*dask, *command, *flags],
                    env={**os.environ, "DASK_CONFIG": str(ours / "tls.yaml")},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            while not (file.exists() and file.read_text()):
                assert processes[0].poll() is None
                time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        started = Cluster(address, file, tuple(processes))
        deadline = time.monotonic() + 60
        while len([ip for ip, _ in started.listeners() if ip != "127.0.0.1"]) < 3 or not _dashboards(started):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield started
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def reduce_on(address: str | Path, out: Path, certificates: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    if certificates is not None:
        environment["DASK_CONFIG"] = str(certificates / "tls.yaml")
    command = [sys.executable, "-m", "bigmm", "reduce", FORMULA, str(DATA), "--scheduler", str(address), "--out", str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_keys_are_their_owner_s_alone(ours: Path) -> None:
    assert ours.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in ours.iterdir())
    assert sorted(file.name for file in ours.iterdir() if "ca" in file.name) == ["ca.pem"]  # nobody can sign another one


def test_the_right_certificate_gets_in(cluster: Cluster, ours: Path, tmp_path: Path) -> None:
    assert cluster.address.startswith("tls://")
    done = reduce_on(cluster.file, tmp_path / "cp", ours)
    assert done.returncode == 0, done.stderr
    found = bigmm.load(tmp_path / "cp")
    expected = bigmm.reduce(FORMULA, DATA, client=0)
    assert isinstance(found, bigmm.CrossProducts)
    assert found.XytXy.tobytes() == expected.XytXy.tobytes()


@pytest.mark.parametrize("who", ["plain", "other authority", "no certificate"])
def test_others_get_a_clear_error(cluster: Cluster, theirs: Path, tmp_path: Path, who: str) -> None:
    address = cluster.address.replace("tls://", "tcp://") if who == "plain" else cluster.address
    done = reduce_on(address, tmp_path / "cp", theirs if who == "other authority" else None)
    assert done.returncode == 2
    assert not (tmp_path / "cp").exists()
    assert done.stderr.splitlines()[-1].startswith("bigmm: error:"), done.stderr


def forged(folder: Path) -> Path:
    """A certificate with the names of ours that its owner has signed himself."""
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout client-key.pem -out client.pem -subj"
    subprocess.run([*make.split(), "/CN=bigmm client"], cwd=folder, check=True, capture_output=True)
    return folder


def greeting(ip: str, port: int, certificates: Path | None) -> bytes:
    """First bytes that a scheduler or worker sends to somebody who does not ask for its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificates is not None:
        context.load_cert_chain(certificates / "client.pem", certificates / "client-key.pem")
    with socket.create_connection((ip, port), timeout=20) as plain, context.wrap_socket(plain) as secure:
        return secure.recv(8)


def test_the_server_itself_refuses(cluster: Cluster, ours: Path, theirs: Path, tmp_path: Path) -> None:
    """A client can be made not to look at the server's certificate, so that it is for the server to say no."""
    open_to_all = [(ip.replace("0.0.0.0", "127.0.0.1"), port) for ip, port in cluster.listeners() if ip not in ("127.0.0.1", "::1", "::")]
    assert len(open_to_all) >= 3  # scheduler, nanny, worker
    for ip, port in open_to_all:
        assert greeting(ip, port, ours)
        for certificates in (None, theirs, forged(tmp_path)):
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                greeting(ip, port, certificates)


def test_nothing_else_is_open(cluster: Cluster) -> None:
    """Scheduler, nanny and worker are open to the network, by TLS; dashboards and metrics only to this machine."""
    listeners = cluster.listeners()
    dashboards = _dashboards(cluster)
    assert dashboards
    for ip, port in listeners:
        if ip != "127.0.0.1":
            assert not _answers_http(port)
    with closing(socket.socket()) as probe:
        address = _own_address()
        for port in dashboards if address else ():
            assert probe.connect_ex((address, port)) != 0


def _dashboards(cluster: Cluster) -> list[int]:
    """Ports of the scheduler's and the worker's, once both answer."""
    found = [port for ip, port in cluster.listeners() if ip == "127.0.0.1" and _answers_http(port)]
    return found if len(found) >= 2 else []


def _own_address() -> str | None:
    """An address of this machine that other machines may reach."""
    found = [item.address for items in psutil.net_if_addrs().values() for item in items if item.family == socket.AF_INET]
    return next((address for address in found if not address.startswith("127.")), None)


def _answers_http(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False
