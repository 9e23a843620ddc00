"""A cluster of somebody else: its processes, and workers that have another bigmm or none."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

NO_BIGMM = "import sys; sys.modules['bigmm'] = None"
OTHER_BIGMM = "import bigmm; bigmm.__version__ = '0.0.9'"


class Cluster:
    """A scheduler and workers in processes of their own, as somebody else might have started them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, list[subprocess.Popen[bytes]]()
        self.file = folder / "scheduler.json"

    def scheduler(self, preload: str = "") -> None:
        self._start("scheduler", ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"], preload)
        deadline = time.monotonic() + 60
        while not (self.file.exists() and self.file.read_text().rstrip().endswith("}")):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def worker(self, *options: str, preload: str = "") -> None:
        self._start("worker", ["--no-nanny", "--nthreads", "1", "--no-dashboard", *options], preload)

    def _start(self, kind: str, options: list[str], preload: str) -> None:
        if preload:
            script = self._folder / f"preload_{len(self._started)}.py"
            script.write_text(preload + "\n")
            options = [*options, "--preload", str(script)]
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.file), *options]
        with (self._folder / f"{len(self._started)}.log").open("wb") as log:
            self._started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder))

    def close(self) -> None:
        for process in reversed(self._started):
            process.kill()
            process.wait()
