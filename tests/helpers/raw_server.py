"""A server that answers every connection with given bytes, however wrong they are as HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def raw_server(answer: Callable[[bytes], Iterable[bytes]], pause: float = 0.0) -> Iterator[str]:
    """Serve on a free loopback port; the address.

    `answer` gets the request as sent and yields what is sent back, `pause` seconds apart; then
    the connection is closed.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    closing = threading.Event()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            request = b""
            while b"\r\n\r\n" not in request and (block := connection.recv(1 << 16)):
                request += block
            for block in answer(request):
                if closing.is_set():
                    return
                connection.sendall(block)
                if pause:
                    time.sleep(pause)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        closing.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
