"""The command line, made for batch jobs: results on stdout, progress on stderr, plain exit codes, no questions."""

from bigmm.cli.artefacts import artefacts
from bigmm.cli.commands import main

for _command in artefacts.commands.values():
    main.add_command(_command)

__all__ = ["main"]
