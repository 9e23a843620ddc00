"""What every command shares: errors in one line, exit codes, signals, what is logged."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from bigmm.cli.apart import check_places
from bigmm.cli.journal import Journal, JournalHandler, finish_journal, journal_kept, journal_of
from bigmm.errors import BigmmError, ClusterError, IdentificationWarning, PrecisionWarning
from bigmm.urls import is_url, text_without_secrets

EXIT_UNEXPECTED = 1
EXIT_MISTAKE = 2
EXIT_NOT_CONVERGED = 3
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_RESUME = os.EX_TEMPFAIL
#: For the help.
EXIT_CODES = """

\b
Exit codes:
  0    success
  1    an unexpected error
  2    a mistake in the arguments, the formula or the data
  3    the search of `fit` did not converge; its result is printed and saved all the same
  75   not done, but the checkpoint holds what is: run again with --resume (stopped by SIGTERM
       or --max-time, or the cluster was lost); the same before anything is done
  130  stopped by Ctrl-C
  143  stopped by SIGTERM or --max-time, without a checkpoint
"""

_VERBOSE = "bigmm.verbose"
_CHECKPOINT = "bigmm.checkpoint"
_MAX_SECONDS = "bigmm.max-seconds"
#: Seconds until a stop is raised again.
_MOMENT = 0.05
#: Loggers of other libraries that report what reaches the user as an error anyway, or is no concern of a batch job.
_NOISY = ("asyncio", "distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application")


class Failure(click.ClickException):
    """A mistake as the user sees it: ``bigmm: error: ...`` on stderr."""

    exit_code = EXIT_MISTAKE

    def show(self, file: Any = None) -> None:
        """Print the error."""
        click.echo(f"bigmm: error: {text_without_secrets(self.message)}", file=file, err=file is None)


class Resumable(Failure):
    """A failure after which a checkpoint holds what was done."""

    exit_code = EXIT_RESUME


class Unexpected(Failure):
    """An error that is not the user's."""

    exit_code = EXIT_UNEXPECTED


class Stopped(click.exceptions.Exit):
    """The end of a command that was stopped; why has been printed."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.message = message


class Terminated(BaseException):
    """SIGTERM, or the end of ``--max-time``, raised where the process is, so that everything open is closed on the way out."""


class Application(click.Group):
    """The group of commands; its errors are those of `Failure`."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """Parse the arguments before the command's name."""
        with _failures(None):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with _outcome_noted(ctx), _failures(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _outcome_noted(ctx: click.Context) -> Iterator[None]:
    """The end of the job's journal."""
    code, message = EXIT_UNEXPECTED, None
    try:
        yield
        code = 0
    except (Failure, click.exceptions.Exit) as end:
        code, message = end.exit_code, getattr(end, "message", None)
        raise
    finally:
        finish_journal(ctx, code, message)


class Job(click.Command):
    """A command with ``--verbose`` that leaves nothing behind when it is stopped by a signal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(verbose_option())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, stoppable and with the right amount of logging."""
        check_places(ctx)
        verbose = is_verbose(ctx)
        stoppable = _stoppable(ctx.meta.get(_MAX_SECONDS, 0.0))
        with stoppable, journal_kept(ctx) as journal, _logging(verbose, journal), _warnings(verbose):
            return super().invoke(ctx)


Application.command_class = Job


def verbose_option() -> click.Option:
    """``-v``, before or after a command's name."""
    return click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_note_verbose,
        help="Log to stderr; show the traceback of an unexpected error.",
    )


def note_checkpoint(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Remember that a command can go on where it is stopped; callback of an option."""
    ctx.meta[_CHECKPOINT] = value
    return value


def note_max_seconds(ctx: click.Context, _: click.Parameter, value: float | None) -> None:
    """Remember when to stop; callback of an option."""
    ctx.meta[_MAX_SECONDS] = value or 0.0


def _note_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_VERBOSE] = ctx.meta.get(_VERBOSE, False) or value


def is_verbose(ctx: click.Context) -> bool:
    """Whether ``-v`` was given anywhere."""
    return bool(ctx.meta.get(_VERBOSE, False))


@contextlib.contextmanager
def _failures(ctx: click.Context | None) -> Iterator[None]:
    """Every way in which a command can end badly, as a message and an exit code."""
    try:
        yield
    except (Failure, click.exceptions.Exit):
        raise
    except click.UsageError as error:
        asked = f"; see '{error.ctx.command_path} --help'" if error.ctx else ""
        raise Failure(_one_line(error.format_message()).rstrip(".") + asked) from None
    except ClusterError as error:
        raise (Resumable if _checkpoint(ctx) else Failure)(str(error)) from None
    except BigmmError as error:
        raise Failure(str(error)) from None
    except (KeyboardInterrupt, click.Abort):
        _stop("interrupted", EXIT_INTERRUPTED, ctx)
    except Terminated as stopped:
        _stop(str(stopped), EXIT_RESUME if _checkpoint(ctx) else EXIT_TERMINATED, ctx)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # whoever read stdout has gone: click ends the program quietly
        raise _unexpected(error, ctx) from None


def _checkpoint(ctx: click.Context | None) -> str | None:
    return None if ctx is None else ctx.meta.get(_CHECKPOINT)


def _stop(word: str, code: int, ctx: click.Context | None) -> NoReturn:
    _forget_clusters()
    place = _checkpoint(ctx)
    message = word + (f"; {_done(place)}: run again with --resume" if place else "")
    click.echo(f"bigmm: {message}", err=True)
    raise Stopped(code, message) from None


def _done(place: str) -> str:
    """What a checkpoint holds; one that a URL names is not asked, for the end must not wait."""
    holds = is_url(place) or next(Path(place).rglob("*.json*"), None) is not None
    return f"what is done is in {place!r}" if holds else f"nothing is in {place!r} yet"


def _forget_clusters() -> None:
    """Keep Dask from closing a cluster at exit: one that is open now is half started, and cannot be.

    Its processes end with this one.
    """
    if "distributed.deploy.spec" in sys.modules:
        atexit.unregister(sys.modules["distributed.deploy.spec"].close_clusters)


def _unexpected(error: Exception, ctx: click.Context | None) -> Unexpected:
    hint = "run again with --verbose for the traceback"
    if ctx is not None and is_verbose(ctx):
        click.echo(text_without_secrets("".join(traceback.format_exception(error))), err=True, nl=False)
        hint = "please report it with the traceback above"
    return Unexpected(f"unexpected {type(error).__name__}: {_one_line(str(error))}; {hint}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextlib.contextmanager
def _stoppable(max_seconds: float) -> Iterator[None]:
    """Turn SIGTERM, and an alarm, into an exception, so that a local cluster is closed; a second SIGTERM ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _terminate) for number in (signal.SIGTERM, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_REAL, max_seconds)
    hook, sys.unraisablehook = sys.unraisablehook, _raise_again
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_again(ignored: Any) -> None:
    """A stop that came while Python ran what may not raise (a finalizer, a callback) is raised once more, a moment later."""
    if not issubclass(ignored.exc_type, Terminated):
        sys.__unraisablehook__(ignored)
        return
    message = str(ignored.exc_value)

    def stop(_: int, __: FrameType | None) -> None:
        raise Terminated(message)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _MOMENT)


def _terminate(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    raise Terminated("terminated" if number == signal.SIGTERM else "out of time (--max-time)")


@contextlib.contextmanager
def _logging(verbose: bool, journal: Journal) -> Iterator[None]:
    """Log bigmm's warnings to stderr and to the journal, with `verbose` everything to stderr."""
    noting, handler = JournalHandler(journal), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "bigmm: %(message)s"))
    logger = logging.getLogger("bigmm")
    before = logger.level
    for each in (handler, noting):
        logger.addHandler(each)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        yield
    finally:
        for each in (handler, noting):
            logger.removeHandler(each)
        logger.setLevel(before)


@contextlib.contextmanager
def _warnings(verbose: bool) -> Iterator[None]:
    """Show bigmm's own warnings as one line; hide those of other libraries, unless they were asked for."""
    with warnings.catch_warnings():
        if not verbose and not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", PrecisionWarning)
            warnings.simplefilter("always", IdentificationWarning)
            warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"bigmm: warning: {_one_line(str(message))}", err=True)
    journal_of(click.get_current_context(silent=True)).note("warning", message=_one_line(str(message)), logger="py.warnings", worker=None)


def hush_cluster(verbose: bool) -> None:
    """Silence Dask's own log until the process ends: some of it is written while the interpreter shuts down."""
    import distributed  # noqa: F401  sets the levels of its loggers when it is imported

    if not verbose:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def in_terminal() -> bool:
    """Whether somebody watches stderr."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
