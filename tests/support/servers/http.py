"""A small HTTP server on loopback that answers by script and remembers what it was asked."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    """A request as it came; header names in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer. ``hang``: none until the server closes. ``cut``: the connection ends instead.

    ``until``: the connection ends without an answer when that is set.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False
    until: threading.Event | None = None


Responder = Callable[[Request], Reply]


class LoopbackServer:
    """Runs in threads of its own, so that it serves any event loop and plain code alike.

    ``respond`` may be replaced at any time; `script` sets one that gives the replies one after the
    other and repeats the last. ``requests`` holds what came, in order of arrival.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.respond: Responder = lambda request: Reply()
        #: Seconds before each request is looked at, as if the server were far away.
        self.latency = 0.0
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="loopback-http"
        )

    @property
    def url(self) -> str:
        """Address without a trailing slash."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, *replies: Reply) -> None:
        """Answer with ``replies`` in turn, the last one for ever."""
        left = list(replies)
        self.respond = lambda request: left.pop(0) if len(left) > 1 else left[0]

    def answer(self, request: Request) -> Reply:
        """Remember the request and find its reply."""
        if self.latency:
            time.sleep(self.latency)  # a service that is far away
        with self._lock:
            self.requests.append(request)
            return self.respond(request)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        for connection in list(self.connections):  # a client may keep one open for ever
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128  # a connection over this is dropped, and tried again a second later

    def handle_error(self, request: object, client_address: object) -> None:
        """Tell what goes wrong, but not that a client has gone, as those do that are killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(server: LoopbackServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        disable_nagle_algorithm = (
            True  # head and body are two packets, the second of which would wait
        )

        def setup(self) -> None:
            super().setup()
            server.connections.add(self.connection)

        def finish(self) -> None:
            server.connections.discard(self.connection)
            super().finish()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = server.answer(Request(self.command, self.path, headers, body))
            if reply.hang:
                server.closing.wait()
            if reply.until:
                reply.until.wait()
            if reply.hang or reply.cut or reply.until:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {**reply.headers, "content-length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _serve

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet: the tests look at `LoopbackServer.requests`."""

    return Handler


@contextmanager
def loopback_server() -> Iterator[LoopbackServer]:
    """A running `LoopbackServer`, closed at the end."""
    server = LoopbackServer()
    server.start()
    try:
        yield server
    finally:
        server.close()
