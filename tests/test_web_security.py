import asyncio
import re
import socket
import time

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from sightline.errors import InputError
from sightline.faces.web import security
from sightline.faces.web.app import create_app, static_version
from sightline.faces.web.config import ServeConfig
from web_world import PATIENCE_S, image_bytes, index, open_app, write_photos

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with open_app(tmp_path_factory.mktemp("security") / "library", model="starter") as client:
        yield client


@pytest.fixture
def stranger(client):
    """A client of the same server that knows no token."""
    return TestClient(client.app, base_url="http://127.0.0.1:8000")


@pytest.fixture
def public(tmp_path):
    """A server that others can reach; the client stands elsewhere and knows no token."""
    config = ServeConfig(libraries=(tmp_path / "library",), model="starter", host="0.0.0.0")
    with TestClient(create_app(config), base_url="http://192.168.1.7:8000", follow_redirects=False) as client:
        client.config = config  # type: ignore[attr-defined]
        yield client


def kind(response):
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return body["type"]


@pytest.mark.parametrize(
    "path",
    ["/", "/image/3", "/static/index.html", "/api/stats", "/api/nothing", "/healthz", "/metrics", "/api/search?q=-"],
)
def test_every_answer_carries_the_headers_that_protect_a_page(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"] == CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_the_page_carries_the_token_and_is_never_stored(client):
    for path in ("/", "/library", "/caption", "/compare", "/train", "/image/12"):
        page = client.get(path)
        assert f'<meta name="sightline-token" content="{client.app.state.config.token}"' in page.text
        assert page.headers["cache-control"] == "no-store"
        assert "{{" not in page.text


def test_each_start_has_tokens_of_its_own(tmp_path):
    first, second = (ServeConfig(libraries=(tmp_path,)) for _ in range(2))
    assert len({first.token, second.token, first.access_token, second.access_token}) == 4
    assert first.token not in repr(first)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1",
        "127.0.0.1:9999",
        "127.0.0.1:8000@evil.example",
        "127.0.0.1:8000.evil.example",
        "127.0.0.1.evil.example:8000",
        "192.168.1.7:8000",
        "localhost:",
        "localhost:80000000000000000000",
        "",
        ":8000",
    ],
)
def test_other_hosts_are_refused(client, host):
    for path in ("/", "/api/stats", "/healthz", "/static/index.html"):
        response = client.get(path, headers={"Host": host})
        assert response.status_code == 421
        assert kind(response) == "/problems/host"
        assert client.app.state.config.token not in response.text


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "[::1]:8000"])
def test_own_hosts_are_let_in(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_requests_without_or_with_two_hosts_are_refused(client):
    async def ask(headers):
        sent = []

        async def receive():
            return {"type": "http.request"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b"", "headers": headers}
        await client.app({**scope, "http_version": "1.1", "scheme": "http", "raw_path": b"/healthz"}, receive, send)
        return sent[0]["status"]

    assert asyncio.run(ask([])) == 421
    assert asyncio.run(ask([(b"host", b"127.0.0.1:8000"), (b"host", b"evil.example")])) == 421
    assert asyncio.run(ask([(b"host", b"127.0.0.1:8000")])) == 200


CHANGES = [
    ("POST", "/api/uploads"),
    ("POST", "/api/embed"),
    ("POST", "/api/caption"),
    ("POST", "/api/jobs"),
    ("PUT", "/api/images/1/captions"),
    ("DELETE", "/api/images/1/captions"),
    ("PUT", "/api/models/default"),
    ("PATCH", "/api/stats"),
    ("OPTIONS", "/api/search"),
    ("POST", "/"),
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("token", [None, "", "wrong", "ü" * 43])
def test_what_changes_something_demands_the_token_of_this_start(stranger, method, path, token):
    headers = {} if token is None else {"X-Sightline-Token": token.encode()}
    response = stranger.request(method, path, headers=headers)
    assert response.status_code == 403
    assert kind(response) == "/problems/token"


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8000", "http://127.0.0.1:8000.evil"],
)
def test_other_origins_change_nothing_even_with_the_token(client, origin):
    response = client.post("/api/embed", json={"texts": ["a"]}, headers={"Origin": origin})
    assert response.status_code == 403
    assert kind(response) == "/problems/cross-site"


def test_our_own_page_may_change_things(client):
    headers = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/embed", json={"texts": ["a"]}, headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "", "same-origin, cross-site", "new-word"])
def test_other_sites_and_ports_get_nothing_from_the_api(client, site):
    headers = {"Sec-Fetch-Site": site}
    for path in ("/api/stats", "/api/search?q=a", "/api/openapi.json", "/api/images/1/file", "/api/nothing"):
        assert kind(client.get(path, headers=headers)) == "/problems/cross-site"
    assert client.post("/api/embed", json={"texts": ["a"]}, headers=headers).status_code == 403
    for path in ("/", "/static/js/main.js", "/healthz"):
        assert client.get(path, headers=headers).status_code == 200  # a link to the page, and what it needs


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_page_and_the_address_bar_reach_the_api(client, site):
    assert client.get("/api/stats", headers={"Sec-Fetch-Site": site}).status_code == 200


@pytest.mark.parametrize(
    ("site", "opened_by"),
    [("none", "user"), ("same-origin", "user"), (None, "user"), ("same-site", "another-site"), ("x", "another-site")],
)
def test_the_page_is_told_whether_another_site_led_to_it(client, site, opened_by):
    page = client.get("/?q=a", headers={} if site is None else {"Sec-Fetch-Site": site})
    assert f'<meta name="sightline-opened-by" content="{opened_by}">' in page.text
    assert (page.headers["cache-control"], page.headers["vary"]) == ("no-store", "Sec-Fetch-Site")


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/static/js/main.js", "/api/stats", "/api/nothing"])
def test_head_is_answered_as_get_is_without_a_body(client, path):
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers.get("content-security-policy") == CSP
    assert (head.content, bool(get.content)) == (b"", True)


def test_head_of_a_stream_ends(client):
    head = client.head("/api/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert client.head("/api/stats", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (
            "/api/search?modle=starter",
            "after, before, camera, cursor, each_copy, hub_correction, in, library, like, limit, match, "
            "min_probability, min_similarity, model, parts, place, plain, q, rerank, sort, typing, where.",
        ),
        ("/api/stats?q=a", "library"),
        ("/api/libraries?library=a", "none is known here"),
        ("/api/openapi.json?v=1", "none is known here"),
        ("/api/images/1?size=320", "library"),
    ],
)
def test_unknown_parameters_are_refused_and_the_known_ones_named(client, path, named):
    refused = client.get(path)
    assert (refused.status_code, kind(refused)) == (422, "/problems/invalid")
    assert "unknown" in refused.json()["detail"]
    assert named in refused.json()["detail"]
    assert refused.json()["errors"][0]["field"].startswith("query.")


@pytest.mark.parametrize("path", ["/api/uploads", "/api/embed", "/api/caption"])
def test_unknown_fields_of_forms_are_refused(client, path):
    refused = client.post(path, files={"file": image_bytes()}, data={"surprise": "a"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "body.surprise")


def test_beyond_this_machine_everything_but_health_and_files_demands_the_access_token(public):
    for path in ("/", "/api/stats", "/metrics", "/api/openapi.json", "/image/1", "/api/images/1/file", "/?token=wrong"):
        response = public.get(path)
        assert response.status_code == 401
        assert kind(response) == "/problems/access"
        assert public.config.token not in response.text
    assert public.get("/healthz").status_code == 200
    assert public.get("/static/index.html").status_code == 200
    assert public.get("/api/stats?token=" + public.config.access_token).status_code == 401


def test_the_printed_address_lets_a_browser_in_by_a_cookie(public):
    first = public.get("/", params={"token": public.config.access_token})
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert public.config.token in public.get("/").text
    assert public.get("/api/stats").status_code == 200
    refused = public.post("/api/embed", json={"texts": ["a"]})  # a cookie is sent by other sites' pages too
    assert kind(refused) == "/problems/token"
    assert (
        public.post("/api/embed", json={"texts": ["a"]}, headers={"X-Sightline-Token": public.config.token}).status_code
        == 200
    )


def test_programs_come_in_by_the_access_token_alone(public):
    public.headers["Authorization"] = f"Bearer {public.config.access_token}"
    assert public.get("/api/stats").status_code == 200
    assert public.post("/api/embed", json={"texts": ["a"]}).status_code == 200
    public.headers["Authorization"] = f"Basic {public.config.access_token}"
    assert public.get("/api/stats").status_code == 401


def test_a_public_server_is_known_by_its_addresses_and_name_only(public, monkeypatch, tmp_path):
    assert public.get("/healthz", headers={"Host": "evil.example:8000"}).status_code == 421
    assert public.get("/healthz", headers={"Host": "[fe80::1]:8000"}).status_code == 200
    monkeypatch.setattr(socket, "gethostname", lambda: "Nas")
    config = ServeConfig(libraries=(tmp_path / "library",), model="starter", host="0.0.0.0", require_access=False)
    with TestClient(create_app(config), base_url="http://nas.local:8000") as client:
        assert client.get("/api/stats").status_code == 200  # the access token was waived
        assert client.get("/api/stats", headers={"Host": "nas:8000"}).status_code == 200
        assert kind(client.post("/api/embed", json={"texts": ["a"]})) == "/problems/token"


def test_a_proxys_name_is_let_in_with_the_access_token_only(tmp_path):
    config = ServeConfig(libraries=(tmp_path / "library",), model="starter", allow_hosts=("Photos.Example.org.", "nas"))
    assert config.allow_hosts == ("photos.example.org", "nas")
    assert config.is_local
    with TestClient(create_app(config), base_url="http://127.0.0.1:8000") as client:
        for host in ("photos.example.org", "PHOTOS.example.org:443", "nas:8000", "127.0.0.1:8000"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200
            refused = client.get("/api/stats", headers={"Host": host})
            assert (refused.status_code, kind(refused)) == (401, "/problems/access")
        for host in ("evil.example", "photos.example.org.evil.example", "photos.example.org:", "nas:x", "127.0.0.1"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 421
        client.cookies.set("sightline_access", config.access_token)
        client.headers["X-Sightline-Token"] = config.token
        for origin, status in (
            ("https://photos.example.org", 200),
            ("https://nas:8443", 200),
            ("https://evil.example", 403),
            ("https://photos.example.org@evil.example", 403),
            ("http://[::1", 403),
        ):
            sent = client.post("/api/embed", json={"texts": ["a"]}, headers={"Origin": origin})
            assert sent.status_code == status, origin
    waived = ServeConfig(libraries=(tmp_path / "library",), allow_hosts=("nas",), require_access=False)
    assert not waived.demands_access


@pytest.mark.parametrize("name", ["", "*", "https://photos.example.org", "nas:8000", "a b", "a/b", "-", "x" * 300])
def test_what_is_no_name_of_a_host(tmp_path, name):
    with pytest.raises(InputError, match="is no name of a host"):
        ServeConfig(libraries=(tmp_path,), allow_hosts=(name,))


def test_large_bodies_are_refused_before_and_while_they_are_read(tmp_path):
    with open_app(tmp_path / "library", model="starter", max_upload_bytes=100_000) as client:
        announced = client.post("/api/uploads", files={"file": b"x" * 100_001})
        assert (announced.status_code, kind(announced)) == (413, "/problems/too-large")
        pulled = 0

        def endless():
            nonlocal pulled
            for _ in range(10_000):
                pulled += 1
                yield b"x" * 10_000

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        unannounced = client.post("/api/embed", content=endless(), headers={"Content-Type": "application/json"})
        assert (unannounced.status_code, kind(unannounced)) == (413, "/problems/too-large")
        in_form = client.post("/api/uploads", content=endless(), headers=headers)
        assert in_form.status_code in (400, 413)
        assert client.post("/api/uploads", files={"file": image_bytes()}).status_code == 200


def test_a_client_that_stops_sending_is_let_go(client, monkeypatch):
    monkeypatch.setattr(security, "BODY_TIMEOUT_S", 0.05)
    sent = []

    async def ask():
        async def receive():
            await asyncio.sleep(PATIENCE_S)

        async def send(message):
            sent.append(message)

        token = client.app.state.config.token.encode()
        headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json"), (b"x-sightline-token", token)]
        scope = {"type": "http", "method": "POST", "path": "/api/embed", "query_string": b"", "headers": headers}
        await client.app({**scope, "http_version": "1.1", "scheme": "http", "raw_path": b"/api/embed"}, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 408


def test_a_body_that_stops_after_the_answer_has_begun_disturbs_nobody(tmp_path, monkeypatch, caplog):
    """A GET that announces a body and never sends it gets its file, and nothing is logged."""
    import socket

    from web_demo import run_on_a_socket

    monkeypatch.setattr(security, "BODY_TIMEOUT_S", 0.3)
    photos = write_photos(tmp_path / "photos", names=("red",))
    with run_on_a_socket(index(tmp_path / "library", photos)) as (config, _):
        with socket.create_connection(("127.0.0.1", config.port), timeout=PATIENCE_S) as connection:
            head = f"GET /api/images/1/file HTTP/1.1\r\nHost: 127.0.0.1:{config.port}\r\nContent-Length: 10\r\n\r\n"
            connection.sendall(head.encode())
            answer = b""
            while (photos / "red.png").read_bytes() not in answer:
                answer += connection.recv(65536)
        time.sleep(0.6)  # longer than it waits for a body
    assert answer.startswith(b"HTTP/1.1 200")
    assert not caplog.records


def test_web_sockets_are_refused(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/events"):
        pass


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/" + "a" * 5000,
        "/static/css/",
        "/static/..\\app.py",
    ],
)
def test_no_path_leads_out_of_the_pages_files(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert kind(response) == "about:blank"


def test_files_of_the_page_are_kept_for_good_only_in_this_version(client):
    (version,) = set(re.findall(r"/static/[^\"]*\?v=([0-9a-f]+)", client.get("/").text))
    kept = client.get(f"/static/index.html?v={version}")
    assert "immutable" in kept.headers["cache-control"]
    assert client.get("/static/index.html?v=other").headers["cache-control"] == "no-cache"
    again = client.get("/static/index.html", headers={"If-None-Match": kept.headers["etag"]})
    assert again.status_code == 304


def test_the_version_changes_with_any_file_of_the_page(tmp_path):
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "main.js").write_text("1")
    first = static_version(tmp_path)
    assert static_version(tmp_path) == first
    (tmp_path / "js" / "main.js").write_text("2")
    second = static_version(tmp_path)
    (tmp_path / "js" / "main.js").rename(tmp_path / "main.js")
    assert len({first, second, static_version(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"libraries": ()}, "No library"),
        ({"port": 70000}, "port is 70000"),
        ({"max_upload_bytes": 0}, "max_upload_bytes"),
        ({"allow_roots": ("/no/such/folder",)}, "no folder /no/such/folder"),
        ({"runs": "/no/such/folder"}, "no folder /no/such/folder"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        ServeConfig(**{"libraries": (tmp_path,), **settings})


@pytest.mark.parametrize(
    ("host", "local", "address"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:8000/"),
        ("127.0.0.2", True, "http://127.0.0.2:8000/"),
        ("localhost", True, "http://localhost:8000/"),
        ("::1", True, "http://[::1]:8000/"),
        ("0.0.0.0", False, "http://127.0.0.1:8000/"),
        ("::", False, "http://[::1]:8000/"),
        ("192.168.1.7", False, "http://192.168.1.7:8000/"),
        ("nas.local", False, "http://nas.local:8000/"),
    ],
)
def test_what_is_local_and_where_the_page_is(tmp_path, host, local, address):
    config = ServeConfig(libraries=(tmp_path,), host=host)
    assert (config.is_local, config.demands_access, config.address) == (local, not local, address)


def test_no_file_but_the_librarys_images_is_served(tmp_path):
    """A row whose file was replaced by something else gives nothing away."""
    photos = write_photos(tmp_path / "photos", names=("red", "green"))
    with open_app(index(tmp_path / "library", photos)) as client:
        (tmp_path / "secret.txt").write_text("secret")
        (photos / "red.png").unlink()
        (photos / "red.png").symlink_to(tmp_path / "secret.txt")
        (photos / "green.png").unlink()
        for hit in client.get("/api/search").json()["hits"]:
            for what in ("file", "file?display=1", "thumbnail", "heatmap?q=a"):
                response = client.get(f"/api/images/{hit['id']}/{what}")
                assert kind(response) == ("/problems/image" if hit["name"] == "red.png" else "/problems/file-gone")
                assert "secret" not in response.text.replace("secret.txt", "")
