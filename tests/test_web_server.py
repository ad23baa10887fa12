"""Real sockets, as `sightline serve` has them.

Covers: sightline.faces.cli.serve, sightline.faces.web.config.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import webbrowser
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi")

import httpx2
import uvicorn
from click.testing import CliRunner

from sightline.errors import InputError
from sightline.faces.web import server
from sightline.faces.web.config import ServeConfig
from web_demo import run_on_a_socket
from web_world import PATIENCE_S, index, write_many, write_photos


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    return index(folder / "library", write_many(folder / "photos", 60))


def start(*options):
    """`sightline serve`, and the address that it prints."""
    command = [sys.executable, "-m", "sightline", "serve", "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stderr.read()
    return process, found[0]


def end(process, how):
    """Stop it; what it wrote after its address."""
    process.send_signal(how)
    with process.stderr:
        rest = process.stderr.read()
    process.wait(PATIENCE_S)
    return rest


def test_the_command_serves_until_it_is_interrupted(library):
    process, address = start("--library", library)
    try:
        with httpx2.Client(base_url=address, timeout=PATIENCE_S) as http:
            assert "sightline-token" in http.get("/").text
            assert len(http.get("/api/search", params={"q": "blue"}).json()["hits"]) == 60
    finally:
        rest = end(process, signal.SIGINT)
    assert "Traceback" not in rest
    assert "Ctrl-C stops it." in rest
    assert process.returncode == 0


def test_beyond_this_machine_the_command_prints_its_access_token_once(tmp_path):
    process, address = start("--library", tmp_path / "library", "--host", "0.0.0.0", "--model", "starter")
    try:
        assert "?token=" in address
        port = address.split(":")[2].split("/")[0]
        assert httpx2.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S).status_code == 401
        with httpx2.Client(follow_redirects=True, timeout=PATIENCE_S) as http:
            assert "sightline-token" in http.get(address).text
    finally:
        rest = end(process, signal.SIGTERM)
    assert "Everyone who can reach this machine and has this address" in rest
    assert "token=" not in rest


def test_a_port_that_is_taken_is_named(library):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} can't be had.*Try another --port"):
            server.bind(ServeConfig(libraries=(library,), port=port))
    with pytest.raises(InputError, match="Nothing can listen at 'no such host'"):
        server.bind(ServeConfig(libraries=(library,), host="no such host"))
    with pytest.raises(InputError, match="can't be had"):
        server.bind(ServeConfig(libraries=(library,), host="203.0.113.5"))


def test_browsers_that_come_before_the_app_is_ready_wait_instead_of_being_refused(library):
    listener = server.bind(ServeConfig(libraries=(library,), port=0))
    with listener, socket.create_connection(listener.getsockname()) as early:
        early.sendall(b"GET / HTTP/1.1\r\n")


def test_the_page_opens_in_a_browser_where_asked(library, monkeypatch):
    opened, told = [], []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: told.append(sockets[0].getsockname()[1]))
    server.run_server(ServeConfig(libraries=(library,), port=0), open_page=True, notice=told.append)
    assert opened == [f"http://127.0.0.1:{told[-1]}/"]
    waived = ServeConfig(libraries=(library,), port=0, host="0.0.0.0", require_access=False)
    server.run_server(waived, open_page=False, notice=told.append)
    assert any("there is no access token" in str(line) for line in told)
    named = ServeConfig(libraries=(library,), port=0, allow_hosts=("nas",))
    told.clear()
    server.run_server(named, open_page=False, notice=told.append)
    assert any("?token=" in str(line) for line in told)
    assert "It answers to nas too, with the same token." in told
    assert len(opened) == 1


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, tmp_path):
    from sightline.faces.cli.main import sightline

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "sightline.faces.web.server", raising=False)
    done = CliRunner().invoke(sightline, ["serve", "--library", str(tmp_path)])
    assert done.exit_code == 1
    assert "pip install 'sightline-images[web]'" in done.output


def test_options_reach_the_server(monkeypatch, tmp_path):
    from sightline.faces.cli.main import sightline

    given = []
    monkeypatch.setattr(server, "run_server", lambda config, **how: given.append((config, how)))
    (tmp_path / "runs").mkdir()
    options = ["--library", "a", "--library", "b", "--allow-root", str(tmp_path), "--runs", str(tmp_path / "runs")]
    options += ["--allow-host", "nas", "--allow-host", "photos.example.org"]
    options += ["--host", "0.0.0.0", "--port", "9", "--model", "starter", "--captioner", "none", "--no-token", "--open"]
    assert CliRunner().invoke(sightline, ["serve", *options]).exit_code == 0
    (config, how) = given[0]
    assert [path.name for path in config.libraries] == ["a", "b"]
    assert (config.allow_roots, config.runs) == ((tmp_path,), tmp_path / "runs")
    assert (config.host, config.port, config.model, config.captioner) == ("0.0.0.0", 9, "starter", "none")
    assert config.allow_hosts == ("nas", "photos.example.org")
    assert (config.demands_access, how["open_page"]) == (False, True)
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(tmp_path / "mine"))
    assert CliRunner().invoke(sightline, ["serve"]).exit_code == 0
    assert given[1][0].libraries == (tmp_path / "mine",)


def test_thirty_two_clients_are_answered_at_once(library):
    with run_on_a_socket(library) as (_, address):

        def search(number):
            with httpx2.Client(base_url=address, timeout=PATIENCE_S) as http:
                return [
                    (answer.status_code, len(answer.json()["hits"]))
                    for i in range(10)
                    for answer in [http.get("/api/search", params={"q": f"thing {number} {i}", "limit": 20})]
                ]

        with ThreadPoolExecutor(32) as pool:
            assert all(answers == [(200, 20)] * 10 for answers in pool.map(search, range(32)))


def test_clients_that_send_nothing_or_read_nothing_keep_nobody_waiting(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos")
    noise = os.urandom(3 * 3000 * 2000)
    from PIL import Image

    Image.frombytes("RGB", (3000, 2000), noise).save(photos / "large.bmp")
    with run_on_a_socket(index(tmp_path / "library", photos)) as (config, address):
        found = httpx2.get(f"{address}api/search", timeout=PATIENCE_S).json()["hits"]
        large = next(hit for hit in found if hit["name"] == "large.bmp")
        head = f"Host: 127.0.0.1:{config.port}\r\nX-Sightline-Token: {config.token}\r\n"
        silent = [socket.create_connection(("127.0.0.1", config.port)) for _ in range(150)]
        for i, connection in enumerate(silent):
            if i % 3 == 0:  # half a request
                connection.sendall(b"GET /api/search?q=")
            elif i % 3 == 1:  # a body that doesn't come
                connection.sendall(f"POST /api/embed HTTP/1.1\r\n{head}Content-Length: 1000\r\n\r\n{{".encode())
            else:  # an answer that nobody reads
                connection.sendall(f"GET /api/images/{large['id']}/file HTTP/1.1\r\n{head}\r\n".encode())
        with httpx2.Client(base_url=address, timeout=PATIENCE_S) as http:
            for i in range(20):
                assert http.get("/api/search", params={"q": f"thing {i}"}).status_code == 200
        for connection in silent:
            connection.close()
    assert "Traceback" not in capsys.readouterr().err  # clients that go are nothing to log


def test_bytes_that_are_no_request_end_only_their_own_connection(library):
    hostile = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        random.Random(0).randbytes(3000),
    ]
    with run_on_a_socket(library) as (config, address):
        for data in hostile:
            with socket.create_connection(("127.0.0.1", config.port), timeout=PATIENCE_S) as connection:
                with contextlib.suppress(OSError):  # the server may hang up while we send, or just before we say so
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                answer = b""
                with contextlib.suppress(ConnectionError):  # its answer can be lost then; no end at all fails
                    answer = connection.recv(100)
                assert not answer.startswith(b"HTTP/1.1 2")
                assert not answer.startswith(b"HTTP/1.1 5")
        assert httpx2.get(f"{address}healthz", timeout=PATIENCE_S).status_code == 200


def test_a_chunked_upload_ends_at_the_limit_while_it_is_still_being_sent(library):
    with run_on_a_socket(library, max_upload_bytes=200_000) as (config, _):
        head = (
            f"POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1:{config.port}\r\nX-Sightline-Token: {config.token}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", config.port), timeout=PATIENCE_S) as connection:
            connection.sendall(head.encode())
            sent = 0
            try:
                while sent < 50_000_000:
                    connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                    sent += 0x10000
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert sent < 50_000_000


def test_open_connections_are_allowed_in_thousands():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(500, before[1]), before[1]))
        server._allow_many_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(8192, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
