"""A JSON server on loopback that answers well until told to fail, stall or talk nonsense: for tests of clients."""

import json
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MoodyServer(ThreadingHTTPServer):
    """Serves `answer(payload)` on a free port while it is a context. Each request takes the next of `moods` first."""

    daemon_threads = True

    def __init__(self, answer, *, moods=()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.moods = deque(moods)
        self.broken = None
        """A mood for every request, from now on."""
        self.requests = []
        self.headers = []
        self.times = []
        self.stop = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: MoodyServer

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            payload = json.loads(body) if "json" in self.headers["Content-Type"] else {"inputs": body}
            self.server.requests.append(payload)
            self.server.headers.append({**dict(self.headers), "path": self.path})
            self.server.times.append(time.monotonic())
            mood = self.server.broken or (self.server.moods.popleft() if self.server.moods else "good")
        with suppress(ConnectionError):
            if callable(mood):
                self._send(json.dumps(mood(payload)).encode())
            else:
                getattr(self, f"be_{mood}")(payload)

    def _send(self, body, *, status=200, headers=(), length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def be_good(self, payload):
        try:
            self._send(json.dumps(self.server.answer(payload)).encode())
        except Exception as error:
            self._send(json.dumps({"error": str(error)}).encode(), status=400)

    def be_busy(self, payload):
        self._send(b"", status=503)

    def be_limited(self, payload):
        self._send(b"", status=429, headers=[("Retry-After", "1")])

    def be_limited_for_long(self, payload):
        self._send(b"", status=429, headers=[("Retry-After", "86400")])

    def be_stalling(self, payload):
        """Nothing at all."""
        self.server.stop.wait(300)
        self.close_connection = True

    def be_dripping(self, payload):
        """A byte now and then, often enough for any timeout between two bytes."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.stop.wait(0.02):
            self.wfile.write(b" ")
            self.wfile.flush()
        self.close_connection = True

    def be_endless(self, payload):
        self.send_response(200)
        self.end_headers()
        while not self.server.stop.is_set():
            self.wfile.write(bytes(65536))

    def be_html(self, payload):
        self._send(b"<html>sign in to the hotel's network</html>")

    def be_not_http(self, payload):
        self.wfile.write(b"this is not HTTP\r\n\r\n")
        self._hang_up()

    def be_breaking(self, payload):
        self._send(b"[[0.1,", length=1000)
        self._hang_up()

    def be_locked(self, payload):
        self._send(b"", status=401)

    def be_refusing(self, payload):
        self._send(b'{"error": {"message": "no \\u001b[31mred\\nlines"}}', status=400)

    def be_redirecting(self, payload):
        self._send(b"", status=307, headers=[("Location", "http://127.0.0.1:9/elsewhere")])

    def _hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
