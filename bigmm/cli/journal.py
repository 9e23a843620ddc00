"""What happens in a job, as records: a line of JSON each in the file of ``--log-json``, and what ``--report`` is drawn from.

Every record has `time` (UTC, ISO 8601) and `event`; what else it has depends on the event:

started
    `format` (1), `command`, `arguments` (as given, without secrets; of many paths the first), `data_count`, `versions`,
    `host`, `pid`.
planned
    What the pass has to do: `files`, `chunks`, `rows` (null when they are not known before reading), `bytes` (0 likewise); and
    `before`, the same of what an earlier run had done.
chunk
    One is done: `number`, `rows`, `bytes`, `started` and `stopped` (seconds since the epoch by the clock of its process),
    `worker` (empty: this process), `thread`, `skipped`. A chunk that was lost with its worker and done again comes twice;
    chunks of a worker that was lost before its report arrived may be missing.
progress
    Every ``bigmm.progress.interval``, of a pass: `done`, `total` (chunks), `rows`, `bytes`, `rows_per_second`, `bytes_per_second`,
    `seconds_left` (null while nobody knows).
reduced
    The pass is over: `formula`, `leaves` ("local", or that they live on workers, and why), `digest` (null for leaves on workers),
    `plan_digest`, `rows` (`read`, `used`, `dropped`, `missing` by column), `files`, `bytes` (in memory), `skipped` (chunks: `name`,
    `reason`, `rows`), `incomplete` (the files with most rows dropped or skipped), `seconds`.
evaluation
    Of the search: `number`, `objective` (null where there is none), `theta`.
fitted
    The search is over: what ``bigmm inspect --json`` has of a fit, `reason` (why it stopped), `summary` (text), `seconds`.
warning
    `message`, `logger`, `worker` (null: this process).
error
    `message`, `exit_code`.
finished
    The last record of every job that was not killed: `exit_code`, `seconds`, and `rows`, `digest` where there are any.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

import click

from bigmm.errors import StorageError
from bigmm.urls import is_url, text_without_secrets

Record = dict[str, Any]

_JOURNAL = "bigmm.journal"
LOG, REPORT = "bigmm.log-json", "bigmm.report"
_FORMAT = 1
#: Paths of the data that `started` lists.
_LISTED = 20


class Journal:
    """The records of a job.

    Parameters
    ----------
    file : text file, optional
        Gets a line for each.
    keep : bool
        Whether `records` has them.
    """

    def __init__(self, file: IO[str] | None = None, *, keep: bool = False) -> None:
        self.records: list[Record] = []
        self.started = time.monotonic()
        self.outcome: Record = {}  # of `finished`
        self._file, self._keep = file, keep
        self._lock = threading.RLock()  # what a worker logs arrives in another thread, a signal in the same one

    @property
    def listens(self) -> bool:
        """Whether anything becomes of the records."""
        return self._keep or self._file is not None

    def note(self, event: str, **fields: Any) -> None:
        """Add a record."""
        if not self.listens:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "event": event, **_plain(fields)}
        with self._lock:
            if self._keep:
                self.records.append(record)
            self._write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file, unless it is stderr."""
        file, self._file = self._file, None
        if file not in (None, sys.stderr):
            with contextlib.suppress(OSError):  # what is left in the buffer of a file that cannot take it
                file.close()

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line)
            self._file.flush()
        except (OSError, ValueError) as error:  # a full disk must not end a job that took hours
            self.close()
            click.echo(f"bigmm: warning: the log of --log-json ends here ({error})", err=True)


class JournalHandler(logging.Handler):
    """Logged warnings, as records."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self._journal.note("warning", message=record.getMessage(), logger=record.name, worker=getattr(record, "worker", None))


def _plain(value: Any) -> Any:
    """A value as JSON has it: no secrets, no numpy, null for what is no number."""
    if isinstance(value, str):
        return text_without_secrets(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, int | float) else str(value)


def journal_of(ctx: click.Context | None) -> Journal:
    """The job's journal; one that nobody reads without."""
    found = None if ctx is None else ctx.meta.get(_JOURNAL)
    return Journal() if found is None else found


def journal_options() -> list[Any]:
    """``--log-json`` and ``--report``."""
    return [
        click.option(
            "--log-json",
            metavar="FILE",
            expose_value=False,
            callback=_note(LOG),
            help="Append what happens to FILE, one JSON object a line; - for stderr.",
        ),
        click.option(
            "--report",
            metavar="FILE.html",
            expose_value=False,
            callback=_note(REPORT),
            help="Write a page with the plan, throughput, timeline, search and accounts of the job, however it ends.",
        ),
    ]


def _note(key: str) -> Any:
    def callback(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        ctx.meta[key] = value

    return callback


@contextlib.contextmanager
def journal_kept(ctx: click.Context) -> Iterator[Journal]:
    """A command's journal from `started` on.

    Raises
    ------
    StorageError
        When the log or the report cannot be written.
    """
    log, report = ctx.meta.get(LOG), ctx.meta.get(REPORT)
    _check_place(report)
    journal = ctx.meta[_JOURNAL] = Journal(_opened(log), keep=report is not None)
    if journal.listens:
        journal.note("started", **_job(ctx))
    yield journal


def _check_place(report: str | None) -> None:
    if report is not None and not is_url(report) and (os.path.isdir(report) or not os.path.isdir(os.path.dirname(report) or ".")):
        raise StorageError(f"cannot write the report {report!r}: expected the name of a file in a folder that exists")


def _opened(log: str | None) -> IO[str] | None:
    if log is None or log == "-":
        return sys.stderr if log else None
    try:
        return open(log, "a", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the log {log!r} ({error.strerror}): choose another place") from None


def _job(ctx: click.Context) -> Record:
    from bigmm.reduction.versions import version_of, versions

    others = {package: version_of(package) for package in ("scipy", "scikit-sparse", "nlopt", "numba", "formulaic", "fsspec")}
    given = {name: value for name, value in ctx.params.items() if value not in (None, False, ())}
    data = list(given.get("data", ()))
    arguments = given | ({"data": data[:_LISTED]} if data else {})
    return {
        "format": _FORMAT,
        "command": ctx.info_name,
        "arguments": arguments,
        "data_count": len(data),
        "versions": versions() | others,
        "host": platform.node(),
        "pid": os.getpid(),
    }


def finish_journal(ctx: click.Context, exit_code: int, message: str | None = None) -> None:
    """Note how the job ended, and draw its report."""
    journal = ctx.meta.pop(_JOURNAL, None)
    if journal is None or not journal.listens:
        return
    if message is not None:
        journal.note("error", message=message, exit_code=exit_code)
    journal.note("finished", exit_code=exit_code, seconds=round(time.monotonic() - journal.started, 3), **journal.outcome)
    if ctx.meta.get(REPORT) is not None:
        _write_report(ctx.meta[REPORT], journal.records)
    journal.close()


def _write_report(place: str, records: list[Record]) -> None:
    from bigmm.cli.files import replacing
    from bigmm.cli.report import report_html

    try:
        with replacing(place) as scratch:
            scratch.write_text(report_html(records), encoding="utf-8")
    except Exception as error:  # the job itself is over: its exit code is what counts
        click.echo(f"bigmm: warning: the report {place!r} was not written ({type(error).__name__}: {error})", err=True)
