"""URLs: which kinds are opened, and what each of them needs.

fsspec knows far more kinds than a data set needs. Some run code or commands, log in elsewhere with what they find
in the URL, unpack archives or follow references into other files; those are refused by not being on the list.
"""

from __future__ import annotations

from typing import Any

from vbdguard.errors import SourceError
from vbdguard.sources.secrets import without_secrets

KINDS: dict[str, str] = {
    "file": "",
    "local": "",
    "memory": "",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "http": "http",
    "https": "http",
    "hf": "hf",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
}
"""Scheme to the extra of vbdguard that brings what it needs; "" where nothing is needed."""


def url_scheme(url: str) -> str:
    """Return the scheme of a URL, lower-cased: "s3" of `s3://bucket/train.tar`."""
    return url.partition("://")[0].lower()


def check_url(url: str) -> None:
    """Refuse a kind of URL that is not on the list.

    Raises:
        SourceError: that names the kinds that are.
    """
    scheme = url_scheme(url)
    if scheme not in KINDS:
        raise SourceError(
            f"{without_secrets(url)}: cannot open this kind of URL; expected one of {', '.join(sorted(KINDS))}, "
            f"got {scheme}; download the files first"
        )


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Args:
        url: of a kind that is on the list.
        options: for the file system, before what is configured.

    Raises:
        SourceError: if this kind of URL is not opened, or the package for it is missing.
        OSError: if the other side cannot be reached.
    """
    import fsspec  # type: ignore[import-untyped]  # ships no annotations

    check_url(url)
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = KINDS[url_scheme(url)]
        raise SourceError(f"{without_secrets(url)}: {error}; pip install 'vbdguard[{extra}]'") from error
    except ValueError as error:
        raise SourceError(without_secrets(f"{url}: cannot open this kind of URL: {error}")) from error
    return found


def web_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for web URLs as it is configured, but one that leaves packed bodies packed.

    Raises:
        SourceError: if aiohttp is missing.
    """
    import fsspec

    configured = fsspec.config.conf.get(url_scheme(url), {}).get("client_kwargs", {})
    return filesystem(url, client_kwargs={**configured, "auto_decompress": False})
