"""A webhook receiver that knows nothing of Atlas: checks signatures, and writes down what it got.

Usage: python -m tools.event_receiver PORT SECRET FILE
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def main() -> None:
    port, secret, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    verifier = Webhook(secret)

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                verifier.verify(body.decode(), headers)
                status, line = 204, headers["webhook-id"]
            except WebhookVerificationError:
                status, line = 400, "refused"
            with open(path, "a") as file:
                file.write(line + "\n")
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
