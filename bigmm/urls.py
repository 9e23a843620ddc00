"""URLs of fsspec, ``s3://bucket/name`` for instance: told from paths, and shown without secrets."""

from __future__ import annotations

import os
import re
from typing import TypeGuard


def is_url(path: str | os.PathLike[str]) -> TypeGuard[str]:
    """Whether a place is on another file system than this machine's."""
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]*://", path, re.IGNORECASE) is not None


def joined(place: str | os.PathLike[str], name: str) -> str:
    """A name inside a folder at a path or a URL."""
    return f"{place.rstrip('/')}/{name}" if isinstance(place, str) and is_url(place) else os.path.join(place, name)


def without_secrets(url: str) -> str:
    """Return a URL without password and query, which may hold a signature: they belong in no message."""
    url = re.sub(r"://[^/@:]*:[^/@]*@", "://", url)
    return url.partition("?")[0] if re.search(r"\bhttps?://", url) else url


def text_without_secrets(text: str) -> str:
    """The same for a text with URLs in it."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+", lambda found: without_secrets(found[0]), text)
