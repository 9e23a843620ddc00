"""Run a command of bigmm on workers that are Slurm jobs of their own: ``adaptive.py MAXIMUM fit FORMULA DATA ...``."""

from __future__ import annotations

import sys

from dask_jobqueue import SLURMCluster
from distributed import Client, Security

from bigmm.cli import main

#: Of scheduler and driver, which share this process; workers have theirs from jobqueue.yaml.
_SCHEDULER = {"dashboard_address": "127.0.0.1:0"}


def run(maximum: int, arguments: list[str]) -> None:
    """Start a scheduler here, ask Slurm for workers, wait for the first, and run the command, which takes the current client."""
    with (
        SLURMCluster(protocol="tls://", security=Security(require_encryption=True), scheduler_options=_SCHEDULER) as cluster,
        Client(cluster) as client,
    ):
        cluster.adapt(minimum_jobs=1, maximum_jobs=maximum)
        client.wait_for_workers(1)
        main(arguments, prog_name="bigmm")


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2:])
