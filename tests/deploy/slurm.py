"""A real Slurm on this machine: munge, the controller and three nodes, in a folder of their own and for any user.

By hand: ``python tests/deploy/slurm.py``, then in another shell what it prints.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
NODES = ("n1", "n2", "n3")
_CONFIGURATION = Path(__file__).with_name("slurm.conf")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where Debian keeps the daemons, off the path of most users


def missing_programs() -> list[str]:
    """Programs that the suite needs and this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextlib.contextmanager
def running_slurm() -> Iterator[str]:
    """Start it; the value of SLURM_CONF that its commands need."""
    with tempfile.TemporaryDirectory(prefix="bigmm-slurm-") as name, contextlib.ExitStack() as daemons:
        folder = Path(name)
        folder.chmod(0o755)  # munged refuses a socket that others cannot reach
        configuration = _configure(folder)
        environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(configuration)}
        _start(daemons, _munged(folder), environment)
        _wait_for((folder / "munge.socket").exists, "munged")
        _start(daemons, ["slurmctld", "-D", "-f", str(configuration)], environment)
        for node in NODES:
            _start(daemons, ["slurmd", "-D", "-N", node, "-f", str(configuration)], environment)
        _wait_for(lambda: _idle_nodes(environment) == len(NODES), "slurmctld with three idle nodes")
        yield str(configuration)


def _configure(folder: Path) -> Path:
    for part in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / part).mkdir()
    ports = _free_ports(len(NODES) + 1)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.read_text()
        .split("\n", 1)[1]
        .format(
            folder=folder,
            host=socket.gethostname(),
            user=getpass.getuser(),
            port=ports[0],
            first_node_port=ports[1],
            last_node_port=ports[-1],
        )
    )
    return configuration


def _free_ports(count: int) -> range:
    """Ports in a row, as Slurm's ranges want them."""
    for start in range(16800, 20000, count):
        with contextlib.ExitStack() as probes:
            try:
                for port in range(start, start + count):
                    probes.enter_context(contextlib.closing(socket.socket())).bind(("127.0.0.1", port))
            except OSError:
                continue
            return range(start, start + count)
    raise AssertionError("no free ports")


def _munged(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munged.seed"}
    return ["munged", "--foreground", "--force", *(f"--{option}={folder / file}" for option, file in files.items())]


def _start(daemons: contextlib.ExitStack, command: Sequence[str], environment: dict[str, str]) -> None:
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    daemons.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _idle_nodes(environment: dict[str, str]) -> int:
    found = subprocess.run(
        ["sinfo", "--noheader", "-p", "batch", "-t", "idle", "-o", "%D"], env=environment, capture_output=True, text=True, check=False
    )
    return int(found.stdout or 0) if found.returncode == 0 else 0


def _wait_for(condition: object, what: str) -> None:
    for _ in range(240):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.25)
    raise AssertionError(f"{what} did not start in 60 s")


if __name__ == "__main__":
    with running_slurm() as path, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={path}    # Ctrl-C here stops it", flush=True)
        while True:
            time.sleep(60)
