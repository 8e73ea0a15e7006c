"""A real HTTP server on this machine that serves a folder and fails on purpose; speaks enough S3 to be listed."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass
class Faults:
    """What goes wrong; the defaults are a store that works."""

    drop: float = 0.0
    """Share of requests whose connection breaks, before the status or somewhere in the body."""
    drop_after: int | None = None
    """Bytes of a body behind which each connection breaks."""
    drops_left: int = 1 << 30
    """How many connections may break."""
    stalls_left: int = 0
    """How many bodies stop in their middle and leave the connection open."""
    statuses: list[int] = field(default_factory=list)
    """Answered first, one each, before any file is served."""
    retry_after: str | None = None
    throttle: float = 0.0
    """Seconds of sleep for each 64 KiB sent."""
    ranges: bool = True
    etag: str = "strong"
    """Or "weak", or "none"."""
    modified: bool = True
    length: bool = True
    encoding: str | None = None
    """Sent as Content-Encoding; "gzip" packs the bytes, whatever the client asked for."""
    token: str | None = None
    """A query `token=` or a password without which everything is forbidden."""
    on_request: Callable[[int], None] | None = None
    """Called with the number of file requests so far, before one is answered."""


class FaultyStore(ThreadingHTTPServer):
    """Serves `root`; counts what it did in `seen` and the bytes of bodies in `sent`."""

    daemon_threads = True

    def __init__(self, root: Path, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.faults = faults
        self.random = random.Random(5)
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients go away in these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyStore

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer()

    def do_GET(self) -> None:
        """Answer with a file, a page of links or an S3 listing."""
        self._answer()

    def _answer(self) -> None:
        store, faults = self.server, self.server.faults
        where = urlsplit(self.path)
        query = parse_qs(where.query)
        path = store.root / unquote(where.path).lstrip("/")
        with store.lock:
            store.seen["requests"] += 1
            number = store.seen["requests"]
            store.headers.append(dict(self.headers.items()))
            breaks = store.random.random() < faults.drop and faults.drops_left > 0
            where_it_breaks = store.random.random()
            status = faults.statuses.pop(0) if faults.statuses else None
        if faults.on_request is not None:
            faults.on_request(number)
        if status is not None:
            self._plain(status)
            return
        if faults.token and faults.token not in (*query.get("token", []), *self.headers.get_all("Authorization", [])):
            self._plain(403)
            return
        if breaks and where_it_breaks < 0.3:
            self._break()
            return
        if "list-type" in query:
            self._send(_listing(store.root, where.path, query), "application/xml")
            return
        if path.is_dir():
            links = "".join(f'<a href="{entry.name}">{entry.name}</a>' for entry in sorted(path.iterdir()))
            self._send(links.encode(), "text/html")
            return
        if not path.is_file():
            self._plain(404)
            return
        self._file(path, where_it_breaks if breaks else None)

    def _file(self, path: Path, breaks_at: float | None) -> None:
        store, faults = self.server, self.server.faults
        data, date = path.read_bytes(), email.utils.formatdate(path.stat().st_mtime, usegmt=True)
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if faults.encoding == "gzip":
            data = gzip.compress(data, 1)
        start, stop, status = 0, len(data), 200
        wanted = _RANGE.match(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if (match := self.headers.get("If-Match")) and match.strip('"') != etag.strip('"'):
            self._plain(412)
            return
        if wanted and faults.ranges and condition in (None, etag, date):
            start, stop, status = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data)), 206
            if start >= len(data):
                self._plain(416)
                return
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        if faults.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if faults.etag != "none":
            self.send_header("ETag", etag if faults.etag == "strong" else f"W/{etag}")
        if faults.modified:
            self.send_header("Last-Modified", date)
        if faults.encoding:
            self.send_header("Content-Encoding", faults.encoding)
        self.send_header("Content-Type", "application/x-tar")
        if faults.length:
            self.send_header("Content-Length", str(stop - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data[start:stop]
        cut = None if breaks_at is None else int(len(body) * breaks_at)
        if faults.drop_after is not None and faults.drops_left > 0:
            cut = min(len(body), faults.drop_after)
        if faults.stalls_left > 0:
            faults.stalls_left -= 1
            self._write(body[: len(body) // 2])
            store.closing.wait(30)
            self._break()
            return
        self._write(body if cut is None else body[:cut])
        if cut is not None and cut < len(body):
            self._break()

    def _write(self, body: bytes) -> None:
        for start in range(0, len(body), 1 << 16):
            if self.server.faults.throttle:
                time.sleep(self.server.faults.throttle)
            piece = body[start : start + (1 << 16)]
            self.wfile.write(piece)
            with self.server.lock:
                self.server.sent += len(piece)

    def _break(self) -> None:
        with self.server.lock:
            self.server.seen["drops"] += 1
            self.server.faults.drops_left -= 1
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _plain(self, status: int) -> None:
        self.send_response(status)
        if self.server.faults.retry_after is not None and status in (429, 503):
            self.send_header("Retry-After", self.server.faults.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _listing(root: Path, bucket: str, query: dict[str, list[str]]) -> bytes:
    """Return the answer to ListObjectsV2, all objects in one page."""
    prefix = query.get("prefix", [""])[0]
    folder = root / bucket.strip("/")
    rows = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = file.relative_to(folder).as_posix()
        if key.startswith(prefix):
            tag = hashlib.md5(file.read_bytes()).hexdigest()
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{file.stat().st_size}</Size><ETag>&quot;{tag}&quot;</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            )
    body = f"<Name>{bucket.strip('/')}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(rows)}</KeyCount>"
    end = "<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<ListBucketResult xmlns="{space}">{body}{end}{"".join(rows)}</ListBucketResult>'.encode()


@contextmanager
def serving(root: Path, faults: Faults | None = None) -> Iterator[FaultyStore]:
    """Yield a store over `root` that listens until the block ends."""
    store = FaultyStore(root, faults or Faults())
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.closing.set()
        store.shutdown()
        store.server_close()
        thread.join()


def http_date(seconds: float) -> str:
    """Return the moment so many seconds from now as Retry-After states it."""
    return email.utils.formatdate(time.time() + seconds, usegmt=True)
