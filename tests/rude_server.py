"""A web server on this machine's loopback that behaves as badly as servers on the internet do, for tests of downloads.

It speaks HTTP with bare sockets where a well-behaved library would not let it lie.
"""

import hashlib
import io
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def make_image(seed=0, *, size=(60, 40), kind="JPEG"):
    rgb = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind)
    return file.getvalue()


def make_bomb(width=40_000, height=40_000):
    """A PNG of some kilobytes whose header promises 1.6 gigapixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


class RudeServer(ThreadingHTTPServer):
    """Serves on a free loopback port while it is a context. `hits` counts requests by path."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hits = Counter()
        self.headers_seen = []
        self.ranges = []
        self.files = {}
        """Path -> content of plain files, which support Range and If-Range; `etags` overrides their ETag."""
        self.etags = {}
        self.break_after = {}
        """Path -> bytes after which a plain file's connection breaks off, once for each number in the list."""
        self.crowd = threading.Barrier(1)
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
    protocol_version = "HTTP/1.1"
    server: RudeServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.hits[path] += 1
            self.server.headers_seen.append(dict(self.headers))
            visit = self.server.hits[path]
        if path in self.server.files:
            return self._send_file(path)
        behaviour = path.strip("/").split("/")[0].partition(".")[0].replace("-", "_")
        answer = getattr(self, f"rude_{behaviour}", None)
        if answer is None:
            return self._send(b"", status=404)
        with suppress(ConnectionError):
            answer(visit)
        return None

    def _send(self, body, *, status=200, headers=(), length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, path):
        content = self.server.files[path]
        etag = self.server.etags.get(path, f'"{hashlib.md5(content).hexdigest()}"')
        start, wanted = 0, self.headers.get("Range")
        self.server.ranges.append(wanted)
        if wanted and self.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(content) > 0:
            return self._send(b"", status=416, headers=[("Content-Range", f"bytes */{len(content)}")])
        headers = [("ETag", etag)]
        if start:
            headers.append(("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"))
        body = content[start:]
        breaks = self.server.break_after.get(path)
        sent = body[: breaks.pop(0)] if breaks else body
        self._send(sent, status=206 if start else 200, headers=headers, length=len(body))
        if len(sent) < len(body):
            self._hang_up()
        return None

    def _hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _seed(self):
        digits = "".join(filter(str.isdigit, self.path))
        return int(digits or 0)

    def rude_good(self, visit):
        self._send(make_image(self._seed()), headers=[("Set-Cookie", "track=me")])

    def rude_slow(self, visit):
        """A good picture after a while."""
        self.server.stop.wait(0.15)
        self._send(make_image(self._seed()))

    def rude_together(self, visit):
        """A good picture once as many ask at the same time as `crowd` has parties."""
        self.server.crowd.wait()
        self._send(make_image(self._seed()))

    def rude_png(self, visit):
        self._send(make_image(self._seed(), kind="PNG"))

    def rude_large(self, visit):
        self._send(make_image(self._seed(), size=(400, 300)))

    def rude_pixel(self, visit):
        self._send(make_image(0, size=(1, 1), kind="PNG"))

    def rude_stall(self, visit):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"\xff\xd8")
        self.wfile.flush()
        self.server.stop.wait(300)
        self.close_connection = True

    def rude_mute(self, visit):
        """Never answers at all."""
        self.server.stop.wait(300)
        self.close_connection = True

    def rude_drip(self, visit):
        """A byte now and then, often enough for any timeout between two bytes."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        until_s = time.monotonic() + 300
        while time.monotonic() < until_s and not self.server.stop.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()
        self.close_connection = True

    def rude_drip_headers(self, visit):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        until_s = time.monotonic() + 300
        while time.monotonic() < until_s and not self.server.stop.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()
        self.close_connection = True

    def rude_break(self, visit):
        image = make_image(1)
        self._send(image[: len(image) // 2], length=len(image))
        self._hang_up()

    def rude_break_once(self, visit):
        if visit == 1:
            self.rude_break(visit)
        else:
            self.rude_good(visit)

    def rude_says_more(self, visit):
        image = make_image(2)
        self._send(image, length=len(image) + 5000)
        self._hang_up()

    def rude_says_less(self, visit):
        image = make_image(3)
        self._send(image, length=len(image) // 2)
        self._hang_up()

    def rude_says_huge(self, visit):
        """A good picture that announces gigabytes."""
        self._send(make_image(4), length=10**12)
        self._hang_up()

    def rude_endless(self, visit):
        self.send_response(200)
        self.end_headers()
        while not self.server.stop.is_set():
            self.wfile.write(bytes(65536))

    def rude_bomb(self, visit):
        self._send(make_bomb())

    def rude_html(self, visit):
        self._send(b"<html><body>Buy this domain</body></html>", headers=[("Content-Type", "image/jpeg")])

    def rude_zipped(self, visit):
        self._send(b"\x1f\x8b" + bytes(100), headers=[("Content-Encoding", "gzip")])

    def rude_opted_out(self, visit):
        self._send(make_image(5), headers=[("X-Robots-Tag", "otherbot: index, noai, noimageai")])

    def rude_gone(self, visit):
        self._send(b"", status=404)

    def rude_busy(self, visit):
        self._send(b"", status=503)

    def rude_busy_once(self, visit):
        if visit == 1:
            self._send(b"", status=429, headers=[("Retry-After", "0")])
        else:
            self.rude_good(visit)

    def rude_wait_a_day(self, visit):
        self._send(b"", status=503, headers=[("Retry-After", "86400")])

    def rude_nonsense(self, visit):
        self.wfile.write(b"this is not HTTP\r\n\r\n")
        self._hang_up()

    def rude_to_private(self, visit):
        self._redirect("http://10.0.0.1/secret.jpg")

    def rude_to_metadata(self, visit):
        self._redirect("http://169.254.169.254/latest/meta-data/")

    def rude_to_file(self, visit):
        self._redirect("file:///etc/passwd")

    def rude_to_credentials(self, visit):
        self._redirect(self.server.url.replace("//", "//user:secret@") + "/good/1.jpg")

    def rude_to_good(self, visit):
        self._redirect("/good/7.jpg")

    def rude_loop(self, visit):
        self._redirect("/loop")

    def rude_to_nowhere(self, visit):
        self._redirect("http://[::1")

    def _redirect(self, location):
        self._send(b"", status=302, headers=[("Location", location)])
