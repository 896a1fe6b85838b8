"""A webhook that prints every body it gets as one line."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 9099


class Hook(BaseHTTPRequestHandler):
    """Takes a POST, prints its body, answers 200."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sys.stdout.write(body.decode().replace("\n", " ") + "\n")
        self.send_response(200)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", PORT), Hook).serve_forever()
