"""URLs as they may be shown: without passwords, and without queries, where signatures and tokens stand."""

from __future__ import annotations

import re

from blake3 import blake3

_WEB = ("http", "https")
_URL = re.compile(r"\b(https?://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?", re.IGNORECASE)
_SHORT = 8


def without_query(path: str) -> str:
    """Return a web URL up to its query, which says nothing about the file's kind; any other path as it is."""
    return re.split(r"[?#]", path, maxsplit=1)[0] if is_web(path) else path


def is_web(path: str) -> bool:
    """Return whether the path is an http or https URL."""
    return path.partition("://")[0].lower() in _WEB


def without_secrets(text: str) -> str:
    """Return a text with its web URLs cut before their queries and without the user names and passwords in them."""
    return _URL.sub(r"\1\2", text)


def query_mark(url: str) -> str:
    """Return a short hash that stands for all of a web URL: it tells two of them apart and gives no secret."""
    return f"#{blake3(url.encode()).hexdigest()[:_SHORT]}"
