"""The command line, made for batch jobs: results on stdout, progress on stderr, plain exit codes, no questions."""

from bigmm.cli.artefacts import artefacts
from bigmm.cli.commands import main
from bigmm.cli.models import models

for _command in (*models.commands.values(), *artefacts.commands.values()):
    main.add_command(_command)

__all__ = ["main"]
