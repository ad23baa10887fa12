"""`sightline mcp --transport http`: who may ask, and that a real client can."""

import http.client
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("mcp")
pytest.importorskip("fastapi")

import httpx2
from anyio.from_thread import start_blocking_portal
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from sightline.errors import InputError
from web_world import PATIENCE_S, index, write_photos

TOKEN = "0123456789abcdef-secret"
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


class Served:
    """A server in its own process."""

    def __init__(self, library, *options, **environment):
        command = [sys.executable, "-m", "sightline", "mcp", "--library", library, "--transport", "http", "--port", "0"]
        self.process = subprocess.Popen(
            [*map(str, command), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.notices = []
        while not (
            self.notices and self.notices[-1].startswith(("Token", "MCP at")) and self._is_told(options, environment)
        ):
            line = self.process.stderr.readline()
            assert line, "the server ended"
            self.notices.append(line.strip())
        (self.address,) = re.findall(r"MCP at (\S+)", "\n".join(self.notices))

    def _is_told(self, options, environment):
        return bool(options or environment) or self.notices[-1].startswith("Token")

    def close(self):
        self.process.terminate()
        out, self.rest = self.process.communicate(timeout=PATIENCE_S)
        assert out == ""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("http")
    return index(folder / "library", write_photos(folder / "photos"))


@pytest.fixture(scope="module")
def served(library):
    server = Served(library, "--token", TOKEN)
    yield server
    server.close()


def post(served, *, token=TOKEN, body=HELLO, **headers):
    access = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.post(served.address, json=body, headers={**ACCEPT, **access, **headers})


def test_a_real_client_with_the_token_lists_and_calls(served):
    async def connect():
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            httpx2.AsyncClient(headers=headers) as connection,
            Client(streamable_http_client(served.address, http_client=connection)) as client,
        ):
            tools = await client.list_tools()
            found = await client.call_tool("search_images", {"query": "red", "limit": 2, "pictures": 1})
            failed = await client.call_tool("search_images", {"limit": 0})
        return tools, found, failed

    with start_blocking_portal() as portal:
        tools, found, failed = portal.call(connect)
    assert len(tools.tools) == 6
    assert len(found.structured_content["hits"]) == 2
    assert [content.type for content in found.content] == ["text", "text", "image"]
    assert failed.is_error


def test_a_request_with_the_token_is_answered(served):
    answer = post(served)
    assert answer.status_code == 200
    assert answer.json()["result"]["serverInfo"]["name"] == "sightline"


@pytest.mark.parametrize("token", [None, "wrong", TOKEN[:-1], TOKEN + "x", "é" * 20])
def test_without_the_token_nothing_is_answered(served, token):
    access = {} if token is None else {"Authorization": b"Bearer " + token.encode()}
    for method in ("POST", "GET", "DELETE"):
        answer = httpx2.request(method, served.address, headers={**ACCEPT, **access})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "sightline" not in answer.text


def test_a_foreign_host_or_origin_is_refused_even_with_the_token(served):
    other = post(served, Host="evil.example")
    assert other.status_code == 421
    assert "allow-host" not in other.text, "that is the web app's"
    assert post(served, Host="localhost:1").status_code == 421
    assert post(served, Origin="http://evil.example").status_code == 403
    port = served.address.split(":")[2].split("/")[0]
    assert post(served, Origin=f"http://127.0.0.1:{port}").status_code == 200


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("none", 200), ("same-origin", 200)]
)
def test_another_sites_page_is_refused_even_with_the_token(served, site, status):
    assert post(served, **{"Sec-Fetch-Site": site}).status_code == status


def test_a_request_that_is_too_large_is_refused_before_it_is_read(served):
    address = httpx2.URL(served.address)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE_S)
    connection.putrequest("POST", address.path)
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Length", "99999999")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_given_token_is_not_printed(served):
    assert TOKEN not in "\n".join(served.notices)


def test_a_new_token_is_printed_once_and_works(library):
    server = Served(library)
    (token,) = re.findall(r"TOKEN: (\S+)$", "\n".join(server.notices))
    assert len(token) >= 32
    assert post(server, token=token).status_code == 200
    server.close()
    assert token not in server.rest


def test_the_token_can_come_from_the_environment(library):
    server = Served(library, SIGHTLINE_MCP_TOKEN=TOKEN)
    assert post(server).status_code == 200
    assert post(server, token=None).status_code == 401
    server.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"host": "0.0.0.0"}, "this machine only"),
        ({"host": "192.168.1.5"}, "this machine only"),
        ({"host": "example.com"}, "this machine only"),
        ({"token": "short"}, "at least 16"),
        ({"token": "with a space inside it"}, "spaces"),
        ({"token": "é" * 20}, "ASCII"),
    ],
)
def test_settings_that_would_let_others_in_are_refused(settings, told, tmp_path):
    from sightline.faces.web.config import ServeConfig
    from sightline.faces.web.mcp_http import make_config

    with pytest.raises(InputError, match=told):
        make_config(
            **{"host": "127.0.0.1", "port": 0, "token": None, **settings}, library=ServeConfig(libraries=(tmp_path,))
        )


def test_a_port_in_use_is_an_error(served, library):
    port = served.address.split(":")[2].split("/")[0]
    command = [sys.executable, "-m", "sightline", "mcp", "--library", library, "--transport", "http", "--port", port]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 2
    assert "can't be had" in ended.stderr
