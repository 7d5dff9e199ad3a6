"""Google Cloud Storage on loopback: the emulator, with the one thing added that it leaves out."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlparse

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound

BUCKET = "atlas-contract"


class ConditionalHandler(server.RequestHandler):  # type: ignore[misc]  # the emulator ships no types
    """Answers 412 where ``ifGenerationMatch`` does not hold, as the real service does."""

    def do_POST(self) -> None:
        url = urlparse(self.path)
        query = parse_qs(url.query)
        if wanted := query.get("ifGenerationMatch"):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.rfile = io.BytesIO(body)
            name = query["name"][0] if "name" in query else _name_in(body)
            if self._generation(url.path, name) != wanted[0]:
                self.send_response(412)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        super().do_POST()

    def _generation(self, path: str, name: str) -> str:
        match = re.search(r"/b/([^/]+)/o", path)
        assert match is not None
        try:
            return str(self.storage.get_file_obj(match[1], name)["generation"])
        except NotFound:
            return "0"


def _name_in(multipart: bytes) -> str:
    start = multipart.index(b"{")
    resource: dict[str, Any] = json.JSONDecoder().raw_decode(
        multipart[start:].decode(errors="replace")
    )[0]
    return str(resource["name"])


@contextmanager
def running() -> Iterator[str]:
    """The address of an emulator with one bucket, `BUCKET`."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    original, server.RequestHandler = server.RequestHandler, ConditionalHandler
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET):
            yield f"http://127.0.0.1:{port}"
    finally:
        server.RequestHandler = original
