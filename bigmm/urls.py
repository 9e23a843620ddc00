"""URLs of fsspec, ``s3://bucket/name`` for instance: told from paths, and shown without secrets."""

from __future__ import annotations

import os
import re
from typing import TypeGuard


def is_url(path: str | os.PathLike[str]) -> TypeGuard[str]:
    """Whether a place is on another file system than this machine's."""
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]*://", path, re.IGNORECASE) is not None


def plain(path: str) -> str:
    """A local path, absolute and without ``..``, ``.`` and doubled slashes where that is the same file: one file has one name."""
    absolute = os.path.abspath(path)
    return absolute if os.path.realpath(absolute) == os.path.realpath(path) else os.path.join(os.getcwd(), path)


#: Several names of one kind of store.
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "az": "abfs", "abfss": "abfs"}


def located(place: str, *, home: bool = False) -> tuple[str, str]:
    """The file system of a path or URL, "" for this machine's, and the plain path there, however it is spelled.

    Parameters
    ----------
    place : str
    home : bool
        Whether a tilde stands for a home directory, as in what is read and in URLs.
    """
    from fsspec import get_filesystem_class
    from fsspec.core import split_protocol
    from fsspec.implementations.local import LocalFileSystem

    if "://" in place:
        place = place.rpartition("::")[2]  # chained: what the others are made from
    protocol, rest = split_protocol(place)
    if protocol in (None, "file", "local"):
        return "", plain(LocalFileSystem._strip_protocol(place) if protocol or home else place)
    try:
        path = str(get_filesystem_class(protocol)._strip_protocol(place))
    except (ImportError, ValueError):  # whoever opens it says so
        path = rest
    host = rest.lstrip("/").partition("/")[0]
    protocol = _ALIASES.get(protocol, protocol)
    return protocol if host in path else f"{protocol}://{host}", path.rstrip("/")


def joined(place: str | os.PathLike[str], name: str) -> str:
    """A name inside a folder at a path or a URL."""
    return f"{place.rstrip('/')}/{name}" if isinstance(place, str) and is_url(place) else os.path.join(place, name)


#: User and password. A password may hold @ or, unescaped, the slashes of a key; but a number before a slash is a port.
_USER = re.compile(r"(://)[^/@:]*:(?!:)(?:[^/]*@|(?!\d{1,5}/)[^@]*@)")
_ACCOUNT = re.compile(r"(\bhttps?://)[^/@]*@", re.IGNORECASE)
_WEB = re.compile(r"\bhttps?://", re.IGNORECASE)
#: Elsewhere a question mark may belong to a pattern or to a name.
_SIGNED = re.compile(r"\?([^?]*&)?(sig|[\w.-]*(signature|token|secret|password|credential|key|keyid))=", re.IGNORECASE)


def is_signed(url: str) -> bool:
    """Whether the query of a URL has what looks like a secret."""
    return _SIGNED.search(url) is not None


def without_secrets(url: str) -> str:
    """Return a URL without password and query, which may hold a signature: they belong in no message."""
    url = _ACCOUNT.sub(r"\1", _USER.sub(r"\1", url))
    signed = _SIGNED.search(url)
    return url.partition("?")[0] if _WEB.search(url) else url[: signed.start()] if signed else url


def text_without_secrets(text: str) -> str:
    """The same for a text with URLs in it."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+", lambda found: without_secrets(found[0]), text)


def shown_cause(error: Exception) -> Exception | None:
    """What another error may name as its cause: itself, or None when its text has secrets, which a traceback would show."""
    text = str(error)
    return error if text_without_secrets(text) == text else None
