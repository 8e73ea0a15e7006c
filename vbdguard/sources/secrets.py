"""URLs as they may be shown: without passwords, and without queries, where signatures and tokens stand."""

from __future__ import annotations

import re

from blake3 import blake3

_WEB = ("http", "https")
_IN_QUERY = r"(?:[^\s'\"<>]|['\"<>](?![\s,;:.)\]}>]|$))"
"""Quotes belong to a URL unless the sentence goes on behind them."""
_URL = re.compile(rf"\b(https?://)(?:[^\s/?#]*@)?([^\s?#]*)(?:[?#]{_IN_QUERY}*)?", re.IGNORECASE)
_PORT = re.compile(r"[^:]*(:[0-9]*)?|\[.*")
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


def shown_name(name: str) -> str:
    """Return what may be shown of a name that the user gave: of a web URL, neither query nor user name nor password."""
    if not is_web(name):
        return without_secrets(name)
    scheme, _, rest = without_query(name).partition("://")
    authority, _, _ = rest.partition("/")
    # A password with a slash in it ends the authority too early.
    if "@" not in authority and not _PORT.fullmatch(authority):
        authority = rest
    return f"{scheme}://{rest[authority.rfind('@') + 1 :]}"


def query_mark(url: str) -> str:
    """Return a short hash that stands for all of a web URL: it tells two of them apart and gives no secret."""
    return f"#{blake3(url.encode()).hexdigest()[:_SHORT]}"
