"""The command line, made for batch jobs: results on stdout, progress on stderr, plain exit codes, no questions."""

from bigmm.cli.commands import main

__all__ = ["main"]
