"""`sightline serve` as a process of its own, for benchmarks."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAUSE_S = 0.005


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs."""

    port: int
    pid: int
    first_page_s: float
    """From the start of its process to the page's last byte."""
    ready_s: float
    """And until its model was loaded."""

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        """A connection; for one thread."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def get_json(self, address: str) -> Any:
        """What the API answers."""
        return json.loads(_get(self.port, address))

    @property
    def memory_mb(self) -> float | None:
        """What the process holds in memory now; None where the system doesn't tell."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.is_file():
            return None
        resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(resident.split()[1]) / 1024


@contextmanager
def serve(library: Path) -> Iterator[Server]:
    """A server of one library, once its model is loaded."""
    port = _free_port()
    command = [sys.executable, "-m", "sightline", "serve", "--library", str(library), "--port", str(port)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # users have their compiled modules
    started_s = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    try:
        _wait_for(process, port, "/", b"sightline-token")
        first_page_s = time.perf_counter() - started_s
        _wait_for(process, port, "/healthz", b'"ok"')
        ready_s = time.perf_counter() - started_s
        yield Server(port=port, pid=process.pid, first_page_s=first_page_s, ready_s=ready_s)
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, address: str, part: bytes) -> None:
    while process.poll() is None:
        try:
            if part in _get(port, address):
                return
        except ConnectionError:
            pass  # nothing listens yet
        time.sleep(_PAUSE_S)
    raise SystemExit(f"The server ended with {process.returncode}.")


def _get(port: int, address: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", address)
        return connection.getresponse().read()
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
