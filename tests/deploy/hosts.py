"""Hosts that are network namespaces of this machine, joined by a switch of their own: links can be cut and restored. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_NETWORK = "10.77.0"


@dataclass(frozen=True)
class Hosts:
    """Named hosts, the first at 10.77.0.1."""

    prefix: str
    names: tuple[str, ...]

    def address(self, host: str) -> str:
        return f"{_NETWORK}.{self.names.index(host) + 1}"

    def start(self, host: str, command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program on a host, in a process group of its own; its log is added to."""
        with log.open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.prefix + host, *command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def cut(self, host: str) -> None:
        """Pull the plug, at the switch."""
        _ip("-n", f"{self.prefix}switch", "link", "set", f"to-{host}", "down")

    def restore(self, host: str) -> None:
        """Put it back."""
        _ip("-n", f"{self.prefix}switch", "link", "set", f"to-{host}", "up")


def why_not() -> str | None:
    """What keeps this machine from having such hosts."""
    if shutil.which("ip") is None:
        return "no ip on this machine: tests/deploy/setup.sh"
    if os.getuid() != 0:
        return "network namespaces need root"
    trial = f"bigmm-{os.getpid()}-trial"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here ({made.stderr.strip()})"
    _ip("netns", "delete", trial)
    return None


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Make hosts and their switch; removed at the end."""
    made = Hosts(f"bigmm-{os.getpid()}-", names)
    with contextlib.ExitStack() as namespaces:
        for name in ("switch", *names):
            _ip("netns", "add", made.prefix + name)
            namespaces.callback(_ip, "netns", "delete", made.prefix + name)
        switch = f"{made.prefix}switch"
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for name in names:
            host = made.prefix + name
            _ip("-n", switch, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("-n", switch, "link", "set", f"to-{name}", "master", "bridge", "up")
            _ip("-n", host, "address", "add", f"{made.address(name)}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
        yield made


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
