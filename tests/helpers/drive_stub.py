"""A stand-in for Google Drive and for mirrors: a real HTTP server on loopback, faults included.

It speaks what the real one speaks: the confirmation form of large files, Range and If-Range,
ETag, Content-Disposition; and it fails the ways the real one fails, one `Fault` per request.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

QUOTA_PAGE = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head>
<body><p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>
</body></html>"""
PERMISSION_PAGE = """<!DOCTYPE html><html><head><title>Google Drive: Access Denied</title></head>
<body><p>You need permission. Ask the owner for access.</p></body></html>"""
LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body></body></html>"


def make_payload(size: int, seed: int = 0) -> bytes:
    """A body that begins like a checkpoint and ends with the hash of what precedes."""
    body = b"PK\x03\x04" + hashlib.shake_256(str(seed).encode()).digest(size - 36)
    return body + hashlib.sha256(body).digest()


def is_payload(data: bytes) -> bool:
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer that would carry the file. `at` counts its body bytes."""

    kind: str
    at: int = 0
    status: int = 500
    page: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0


@dataclass
class DriveStub:
    """The served file and the faults to come; `faults` are used up one per file request."""

    payload: bytes
    large: bool = False  # ask for confirmation first
    endless: bool = False  # and never stop asking
    page: str | None = None  # answer every request for the file with this HTML, status 200
    login: bool = False  # redirect to a sign-in page
    ranges: bool = True
    tags: bool = True
    etag: str = '"v1"'
    chunk: int = 1 << 16
    pause: float = 0.0  # seconds between chunks
    content_type: str | None = "application/octet-stream"
    breaks: int = 0  # spread the confirmation page over lines and add so many
    away: str | None = None  # where the confirmation form points, if elsewhere
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def file_requests(self) -> int:
        return sum("confirm=t" in path or not self.large for path, _ in self.requests)

    def fail(self, *faults: Fault) -> None:
        self.faults.extend(faults)

    def replace(self, payload: bytes, etag: str) -> None:
        with self.lock:
            self.payload, self.etag = payload, etag


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: DriveStub

    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        """Say that the connection will be closed; a client that reuses it would find out late."""
        self.send_header("Connection", "close")
        super().end_headers()

    def do_GET(self) -> None:
        stub = self.stub
        stub.requests.append((self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        with contextlib.suppress(OSError):
            if parts.path == "/ServiceLogin":
                self.send_page(LOGIN_PAGE)
            elif stub.login:
                self.redirect("/ServiceLogin?continue=file")
            elif stub.page is not None:
                self.send_page(stub.page)
            elif (parts.path == "/uc" and (stub.large or stub.endless)) or stub.endless:
                self.send_page(self.confirmation(query["id"][0]))
            else:
                self.send_file()

    def confirmation(self, drive_id: str) -> str:
        action = self.stub.away or f"{self.stub.address}/download"
        fields = {"id": drive_id, "export": "download", "confirm": "t", "uuid": "0-1-2"}
        inputs = "".join(f'<input type="hidden" name="{k}" value="{v}">' for k, v in fields.items())
        page = (
            "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head>"
            f'<body><form id="download-form" action="{action}" method="get">'
            f'<input type="submit" value="Download anyway"/>{inputs}</form></body></html>'
        )
        lines = page.replace("><", ">\n<").splitlines() if self.stub.breaks else [page]
        return "\n".join([lines[0], *["<br>"] * self.stub.breaks, *lines[1:]])

    def redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_page(self, text: str, status: int = 200, headers: Iterable = ()) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self) -> None:
        stub = self.stub
        with stub.lock:
            fault = stub.faults.popleft() if stub.faults else Fault("none")
            payload, etag = stub.payload, stub.etag
        if fault.kind == "status":
            return self.send_page(fault.page or "<html>error</html>", fault.status, fault.headers)
        if fault.kind == "drop":
            return self.reset()
        if fault.kind == "corrupt":
            payload = payload[: fault.at] + bytes([payload[fault.at] ^ 1]) + payload[fault.at + 1 :]
        if fault.kind == "short":  # a shorter file that says nothing about it
            payload = payload[: fault.at]
        start = self.range_start(etag, len(payload)) if fault.kind != "ignore-range" else 0
        if start >= len(payload) and start:
            return self.send_page("<html>range</html>", 416)
        self.send_headers(fault, start, len(payload), etag)
        self.send_body(fault, payload[start:])

    def range_start(self, etag: str, size: int) -> int:
        wanted = self.headers.get("Range", "")
        condition = self.headers.get("If-Range")
        if not self.stub.ranges or not wanted.startswith("bytes="):
            return 0
        if condition is not None and condition != etag:
            return 0
        return int(wanted[len("bytes=") :].split("-")[0])

    def send_headers(self, fault: Fault, start: int, size: int, etag: str) -> None:
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if fault.kind == "bad-range" else start
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        length = size - start + (fault.at if fault.kind == "wrong-length" else 0)
        if fault.kind == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif fault.kind != "no-length":
            self.send_header("Content-Length", str(length))
        if self.stub.content_type is not None and fault.kind != "no-type":
            self.send_header("Content-Type", self.stub.content_type)
        if fault.kind not in ("no-type", "no-name"):
            self.send_header("Content-Disposition", 'attachment; filename="model.pth"')
        if self.stub.tags:
            self.send_header("ETag", etag)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def send_body(self, fault: Fault, body: bytes) -> None:
        stub = self.stub
        end = fault.at if fault.kind in ("reset", "truncate", "stall", "no-length") else len(body)
        end = min(end or len(body), len(body))
        for position in range(0, end, stub.chunk):
            block = body[position : min(position + stub.chunk, end)]
            framed = f"{len(block):x}\r\n".encode() + block + b"\r\n"
            self.wfile.write(framed if fault.kind == "chunked" else block)
            stub.sent += len(block)
            if delay := stub.pause + (fault.delay if fault.kind == "slow" else 0):
                time.sleep(delay)
        if fault.kind == "chunked":
            self.wfile.write(b"0\r\n\r\n")
        elif fault.kind == "reset":
            self.reset()
        elif fault.kind == "stall":
            stub.closing.wait(fault.delay)

    def reset(self) -> None:
        """End the connection with a TCP reset instead of an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up is one of the cases


@contextlib.contextmanager
def serve(stub: DriveStub) -> Iterator[DriveStub]:
    """Serve `stub` on a free loopback port; its `address` is set."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": stub}))
    stub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
