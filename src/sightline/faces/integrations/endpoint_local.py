"""An exported endpoint on this machine: to try it before it is deployed. Loopback only, and no server for others."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sightline.errors import SightlineError
from sightline.faces.integrations.endpoint_handler import EndpointHandler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: EndpointHandler, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Requests)
        self.handler = handler
        # Room in a request for all besides its images.
        self.max_body_bytes = handler.limits.max_request_bytes * 4 // 3 + 1_000_000

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Requests(BaseHTTPRequestHandler):
    """As Hugging Face's toolkit: JSON or a picture in, JSON out, 400 with `error` for what can't be answered."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Requests are not logged: they hold what people search for."""

    def do_GET(self) -> None:
        self._send(200, {"status": "ok"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > self.server.max_body_bytes:
            self.close_connection = True
            self._send(413, {"error": f"A body of at most {self.server.max_body_bytes:,} bytes, with its length."})
            return
        body = self.rfile.read(int(length))
        try:
            self._send(200, self.server.handler(self._parse(body)))
        except (SightlineError, ValueError, RecursionError) as error:
            self._send(400, {"error": str(error)})

    def _parse(self, body: bytes) -> Any:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        return json.loads(body) if kind == "application/json" else {"inputs": body}

    def _send(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def run_endpoint(folder: Path | str, *, port: int = 0) -> Iterator[str]:
    """Serve an exported folder on this machine while the block runs; gives its address. Port 0 takes a free one.

    Raises ModelError where the folder holds no model.
    """
    with _Server(EndpointHandler(str(folder)), port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def main(folder: Path) -> None:
    """Serve a folder until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve this endpoint on this machine.")
    parser.add_argument("--port", type=int, default=8080)
    with run_endpoint(folder, port=parser.parse_args().port) as url:
        print(f"Serving {folder.name} at {url}; stop it with Ctrl-C.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return
