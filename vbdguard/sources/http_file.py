"""A file behind an http or https URL, streamed, and resumed where its connection broke.

fsspec's own file fetches a large file in blocks. Measured against a server that fails on purpose (fsspec 2026.9): one
broken connection or one status 503 ends the file, a server without ranges cannot be read beyond the first block, and
a file that is replaced between two blocks comes out as a silent mixture of both. aiohttp also unpacks what a server
has packed with gzip, and gives up after five minutes however well the bytes flow. So this layer makes the requests
itself, over fsspec's session and thus with the proxies, headers and credentials that are configured for fsspec.

What is read is one version of the file, whatever breaks:
- With a strong ETag, or a Last-Modified that is older than the answer (RFC 9110, 8.8), a request for the rest
  (`Range`) is made under that condition (`If-Range`). A server that holds another version sends that as a whole.
- Without, the file is asked for from its beginning, and what had been read must come again, by its hash.
- A server without ranges starts over likewise; what had been read is passed over.
- aiohttp drops what it had received but not yet given out when a connection breaks; those bytes are fetched again.
- The answer's length must be reached: a body that ends early is a broken connection. (Without a stated length, from
  HTTP/1.0 servers, an early end looks like the end, and only the format's own end tells.)
"""

from __future__ import annotations

import email.utils
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, cast

from blake3 import blake3

from vbdguard.errors import ReadError
from vbdguard.sources.remote import web_filesystem
from vbdguard.sources.retries import RETRYABLE_STATUSES, Retries, TransientError, repeat, retry_after_seconds
from vbdguard.sources.secrets import is_web, shown_name, without_query, without_secrets

Answer = TypeVar("Answer")

NEAR = 1 << 20
"""Bytes: a seek forward by no more than these reads on, instead of asking anew."""
PIECE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)$")
_GZIP_SUFFIXES = (".gz", ".tgz")
_WHAT_TO_DO = {
    401: "it wants to know who asks; give credentials, by fsspec's configuration or in the URL",
    403: "it does not let you; check the credentials, or whether the signed URL has expired",
    404: "there is no such file; check the name",
    410: "the file is gone; check the name",
}


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one version of a file from another."""

    etag: str | None
    modified: str | None
    size: int | None
    is_dated: bool = False
    """Whether `modified` is so much older than the answer that a later change would show in it."""

    @property
    def has_own_mark(self) -> bool:
        """Whether the server vouches that no other bytes bear this mark; a date can be set back."""
        return self.etag is not None and not self.etag.startswith("W/")

    @property
    def validator(self) -> str | None:
        """What may stand in `If-Range`: only what no two versions share."""
        if self.etag is not None:
            return self.etag if self.has_own_mark else None
        return self.modified if self.is_dated else None

    def differs(self, other: Version) -> bool:
        """Return whether the two are versions of different bytes for sure."""
        if None not in (self.size, other.size) and self.size != other.size:
            return True
        if self.etag is not None and other.etag is not None:
            return self.etag.removeprefix("W/") != other.etag.removeprefix("W/")
        return None not in (self.modified, other.modified) and self.modified != other.modified


class HttpFile(io.RawIOBase):
    """A readable, seekable raw stream; its memory is what the socket holds.

    Args:
        url: http or https, with its query, user name and password.
        retries: how often to ask again.

    Raises:
        ReadError: "io-error" if it cannot be opened.
        SourceError: if aiohttp is missing.
    """

    def __init__(self, url: str, retries: Retries | None = None) -> None:
        super().__init__()
        self._response: Any = None
        self._url = url
        self._retries = retries or Retries()
        self._files, self._inner = web_filesystem(url)
        self._version: Version | None = None
        self._position = 0
        """Where the next byte that is given out stands."""
        self._reached = 0
        """Where the next byte of the open answer stands."""
        self._hasher = blake3()
        self._is_sequential = True
        """Whether `_hasher` holds all bytes before `_position`."""
        self._in_a_row = self._failures = 0
        self._fault: ReadError | None = None
        self._with_retries(self._connect)

    @property
    def size(self) -> int | None:
        """The file's bytes, None where the server does not tell."""
        return None if self._version is None else self._version.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the file's size is known, so that places in it can be asked for."""
        return self.size is not None

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place in the file; asks the server only when bytes are read there.

        Raises:
            io.UnsupportedOperation: from the end of a file whose size nobody tells.
        """
        if whence == io.SEEK_END and self.size is None:
            raise io.UnsupportedOperation("the server does not tell the file's size")
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size or 0}[whence]
        if start + offset < 0:
            raise ValueError(f"expected a place in the file, got {start + offset}")
        if start + offset != self._position:
            self._position, self._is_sequential = start + offset, False
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the stub asks for WriteableBuffer
        """Fill `buffer` with what comes next; return how many bytes came, 0 at the end.

        Raises:
            ReadError: "io-error" when the retries are used up, "changed" if the file was replaced meanwhile.
        """
        if self._fault is not None:
            raise self._fault
        if not len(buffer) or (self.size is not None and self._position >= self.size):
            return 0
        data = self._with_retries(lambda: self._next(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        if self._is_sequential and self._version is not None and not self._version.has_own_mark:
            self._hasher.update(data)
        self._in_a_row = 0
        return len(data)

    def close(self) -> None:
        """Close the connection too."""
        self._hang_up()
        super().close()

    def _with_retries(self, step: Callable[[], Answer]) -> Answer:
        """Return what a step returns, done again while it fails in a way that may pass."""
        while True:
            try:
                return step()
            except TransientError as error:
                self._hang_up()
                self._in_a_row += 1
                self._failures += 1
                if self._in_a_row >= self._retries.attempts or self._failures >= self._retries.total:
                    self._fail("io-error", f"{error}; gave up behind byte {self._position} after {self._tries()}")
                time.sleep(self._retries.delay(self._in_a_row, error.retry_after))

    def _tries(self) -> str:
        return f"{self._in_a_row} attempts in a row ({self._failures} in all); scan again when the store is well"

    def _next(self, count: int) -> bytes:
        """Return up to `count` bytes at the place in the file, b"" at its end."""
        if self._response is None or not 0 <= self._position - self._reached <= NEAR:
            self._connect()
        self._pass_over()
        data = self._receive(min(count, PIECE))
        if not data and self.size is not None and self._position < self.size:
            raise TransientError(f"expected {self.size} bytes, the answer ended behind byte {self._position}")
        return data

    def _connect(self) -> None:
        """Ask for the file from the place in it on.

        Raises:
            TransientError: if that may help again.
        """
        self._hang_up()
        headers = self._headers()
        response = _translated(lambda: self._call(self._get, headers))
        self._response = response
        if response.status in RETRYABLE_STATUSES:
            wait = retry_after_seconds(response.headers.get("Retry-After"))
            raise TransientError(_status(response.status), wait)
        if response.status == 416 and self._version is not None:
            self._fail("changed", "the file became shorter while it was read; scan again once it is at rest")
        if response.status not in (200, 206) or (response.status == 206 and "Range" not in headers):
            self._fail("io-error", _status(response.status))
        self._check_encoding(response.headers.get("Content-Encoding", "identity").strip().lower())
        self._reached = self._check_place(response)

    def _headers(self) -> dict[str, str]:
        """Return the request's headers: bytes as they are, and the rest only of the version that was begun."""
        headers = {"Accept-Encoding": "identity"}
        validator = None if self._version is None else self._version.validator
        if self._position and (validator is not None or not self._is_sequential):
            headers["Range"] = f"bytes={self._position}-"
            if validator is not None:
                headers["If-Range"] = validator
        return headers

    def _check_place(self, response: Any) -> int:
        """Return the place where the answer begins; refuse another version of the file."""
        start, size = 0, _number(response.headers.get("Content-Length"))
        if response.status == 206:
            given = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if given is None or int(given[1]) != self._position:
                self._fail("io-error", f"expected the file from byte {self._position} on, the server sent other bytes")
            start, size = int(given[1]), _number(given[2])
        version = _version(response.headers, size)
        if self._version is not None and self._version.differs(version):
            self._fail("changed", "it was replaced while it was read; scan again once it is at rest")
        self._version = self._version or version
        return start

    def _check_encoding(self, encoding: str) -> None:
        is_packed_file = encoding in ("gzip", "x-gzip") and without_query(self._url).lower().endswith(_GZIP_SUFFIXES)
        if encoding not in ("", "identity") and not is_packed_file:
            self._fail(
                "io-error",
                f"expected the file's own bytes, the server sends them with Content-Encoding {encoding[:40]!r}; "
                "turn that off for these files",
            )

    def _pass_over(self) -> None:
        """Read up to the place in the file; bytes from the beginning must be those that were read before."""
        again = blake3() if self._reached == 0 and self._is_sequential and self._position else None
        while self._reached < self._position:
            data = self._receive(min(PIECE, self._position - self._reached))
            if not data:
                raise TransientError(f"expected {self.size or 'more'} bytes, the answer ended at {self._reached}")
            if again is not None:
                again.update(data)
        has_hash = self._version is not None and not self._version.has_own_mark
        if again is not None and has_hash and again.digest() != self._hasher.digest():
            self._fail("changed", "other bytes came when it was read again; scan again once it is at rest")

    def _receive(self, count: int) -> bytes:
        data = cast(bytes, _translated(lambda: self._call(self._response.content.read, count)))
        self._reached += len(data)
        return data

    async def _get(self, headers: dict[str, str]) -> Any:
        import aiohttp

        session = await self._files.set_session()
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._retries.connect_timeout, sock_read=self._retries.stall_timeout
        )
        configured = {name: value for name, value in self._files.kwargs.items() if name != "headers"}
        merged = {**(self._files.kwargs.get("headers") or {}), **headers}
        return await session.get(
            self._files.encode_url(self._inner), **{**configured, "headers": merged, "timeout": timeout}
        )

    def _call(self, function: Any, *arguments: Any) -> Any:
        from fsspec.asyn import sync  # type: ignore[import-untyped]  # ships no annotations

        return sync(self._files.loop, function, *arguments)

    def _hang_up(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            self._files.loop.call_soon_threadsafe(response.close)

    def _fail(self, reason: Literal["io-error", "changed"], detail: str) -> NoReturn:
        self._hang_up()
        self._fault = ReadError(reason, f"{shown_name(self._url)}: {detail}")
        raise self._fault


def http_size(url: str, retries: Retries | None = None) -> int | None:
    """Return the bytes of a file, None where the server does not tell.

    By opening it: servers that sign URLs for GET refuse HEAD, and others tell there what they do not send.

    Raises:
        ReadError: "io-error" if it cannot be opened.
        SourceError: if aiohttp is missing.
    """
    with HttpFile(url, retries) as file:
        return file.size


def asked(url: str, ask: Callable[[], Answer], retries: Retries | None = None) -> Answer:
    """Return what a question to fsspec's file system returns, such as for a listing.

    A web server is asked again where that may help; what stands behind other URLs does so by itself.

    Raises:
        TransientError: if that did not help.
        ReadError: "io-error" if the web server refuses.
        Exception: whatever else the file system raises.
    """
    return repeat(lambda: _translated(ask), retries or Retries()) if is_web(url) else ask()


def _translated(ask: Callable[[], Answer]) -> Answer:
    """Return what a call returns; what may pass is raised as `TransientError`, and a refused status as an error."""
    import aiohttp

    try:
        return ask()
    except aiohttp.ClientResponseError as error:
        if error.status not in RETRYABLE_STATUSES:
            raise ReadError("io-error", _status(error.status)) from None  # its own words hold the URL
        asked_for = None if error.headers is None else error.headers.get("Retry-After")
        raise TransientError(_status(error.status), retry_after_seconds(asked_for)) from None
    except aiohttp.ClientSSLError as error:  # a certificate does not get better
        raise ReadError("io-error", without_secrets(f"no safe connection: {error}")) from None
    except (aiohttp.InvalidURL, ValueError) as error:
        raise ReadError("io-error", without_secrets(f"no URL that can be asked for: {error}")) from None
    except TimeoutError:
        raise TransientError("the server sent nothing for too long") from None
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
        words = without_secrets(str(error)) or type(error).__name__
        raise TransientError(f"the connection broke: {words[:200]}") from None


def _status(status: int) -> str:
    advice = _WHAT_TO_DO.get(status, "")
    return f"the server answered {status}" + (f": {advice}" if advice else "")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _version(headers: Any, size: int | None) -> Version:
    modified = headers.get("Last-Modified")
    return Version(headers.get("ETag"), modified, size, _is_older(modified, headers.get("Date")))


def _is_older(modified: str | None, answered: str | None) -> bool:
    """Return whether a file was at rest for a second when the answer was given, what makes its date tell versions."""
    if modified is None or answered is None:
        return False
    try:
        parsed = (email.utils.parsedate_to_datetime(one) for one in (answered, modified))
        return (next(parsed) - next(parsed)).total_seconds() >= 1
    except (ValueError, TypeError):
        return False
