"""Workers on machines that ssh reaches: deploy/ssh/, by way of a real server on loopback."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
pytestmark = [
    pytest.mark.ssh,
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine: tests/deploy/setup.sh"),
]

DEPLOY = Path(__file__).parents[2] / "deploy"
INSTEVAL = DEPLOY.parent / "tests/data/insteval.csv"
FORMULA = "y ~ 1 + service + (1|s) + (1|d) + (1|dept)"
OBJECTIVE = 237721.76877450


@pytest.fixture(scope="module")
def ssh() -> Iterator[str]:
    """The ssh command for a server of its own, for this user, with keys of its own."""
    folder = Path("/tmp", f"bigmm-ssh-{os.getpid()}")  # sshd trusts no key below a folder that others can write to
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a server of root's lives
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    server = subprocess.Popen([str(SSHD), "-D", "-f", "/dev/null", *flags], stdin=subprocess.DEVNULL)
    try:
        yield (
            f"ssh -F none -p {port} -i {folder}/user -l {getpass.getuser()} -o BatchMode=yes -o StrictHostKeyChecking=accept-new "
            f"-o UserKnownHostsFile={folder}/known -o LogLevel=ERROR -o ConnectionAttempts=20"
        )
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture
def job(ssh: str, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    (tmp_path / "hosts").write_text("127.0.0.1 2\nlocalhost  # the same machine under another name\n")
    programs = Path(sys.executable).parent
    environment = {"BIGMM_SSH": ssh, "BIGMM_DASK": str(programs / "dask"), "BIGMM_HOST": "127.0.0.1"}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    return [str(DEPLOY / "ssh/run.sh"), str(tmp_path / "hosts")], {**os.environ, **environment}


def test_a_fit_on_two_machines(job: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    command, environment = job
    done = subprocess.run(
        [*command, "fit", FORMULA, str(INSTEVAL), "--ml", "--out", str(tmp_path / "fit")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "fit/estimates.json").read_text())["objective"] == pytest.approx(OBJECTIVE, abs=1e-6)
    assert "tcp://" not in done.stderr
    assert done.stderr.count("Registered to") >= 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp.")] == []  # no key stays behind


def test_nothing_outlives_a_killed_job(job: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    """Not even when it had no time to clean up: a machine notices that its input has ended."""
    command, environment = job
    running = subprocess.Popen(
        [*command, "reduce", FORMULA, str(INSTEVAL), "--out", str(tmp_path / "cp")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = _eventually(lambda: next(iter(_addresses(tmp_path)), None))
        _eventually(lambda: len(_workers_at(address)) >= 2)
        running.kill()
        running.wait()
        _eventually(lambda: not _workers_at(address))
    finally:
        running.kill()
        running.wait()
        os.killpg(running.pid, signal.SIGKILL)  # the scheduler and the driver of a script that could not stop them


def _addresses(folder: Path) -> list[str]:
    return [json.loads(file.read_text())["address"] for file in folder.glob("tmp.*/scheduler.json") if file.stat().st_size]


def _workers_at(address: str) -> list[int]:
    lines = {process.pid: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    return [pid for pid, line in lines.items() if "worker" in line and address in line]


def _eventually(condition: object) -> object:
    for _ in range(240):
        if found := condition():  # type: ignore[operator]
            return found
        time.sleep(0.25)
    raise AssertionError("did not happen in a minute")
