"""Fetching single addresses, from a server on this machine that stalls, lies and redirects."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from rude_server import RudeServer, make_bomb, make_image
from sightline.errors import ImageError, InputError
from sightline.kit.retry import retry_after_s
from sightline.lab.data.download.fetching import (
    Fetcher,
    FetchLimits,
    ImageLimits,
    check_address,
    check_url,
    is_public,
    keep_image,
)

LIMITS = {
    "connect_timeout_s": 60.0,
    "read_timeout_s": 60.0,
    "total_timeout_s": 120.0,
    "max_bytes": 200_000,
    "tries": 2,
    "retry_wait_s": 0.01,
    "allow_loopback": True,
}


@pytest.fixture
def server():
    with RudeServer() as running:
        yield running


def fetch(url, **limits):
    async def run():
        async with Fetcher(FetchLimits(**(LIMITS | limits)), connections=4) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(run())


def reason(url, **limits):
    with pytest.raises(ImageError) as failure:
        fetch(url, **limits)
    return str(failure.value)


def test_an_image_comes_as_it_is(server):
    assert fetch(f"{server.url}/good/3.jpg") == make_image(3)


@pytest.mark.parametrize(
    ("path", "expected", "visits"),
    [
        ("/stall", "timed out", 2),
        ("/mute", "timed out", 2),
        ("/drip", "timed out: too slow as a whole", 2),
        ("/drip-headers", "timed out: too slow as a whole", 2),
        ("/break", "connection broke off", 2),
        ("/says-more", "connection broke off", 2),
        ("/says-huge", "connection broke off", 2),
        ("/nonsense", "connection broke off", 2),
        ("/endless", "too many bytes: more than 200000", 1),
        ("/gone", "HTTP 404", 1),
        ("/busy", "HTTP 503", 2),
        ("/wait-a-day", "HTTP 503", 1),
        ("/zipped", "compressed although it was not asked for", 1),
        ("/opted-out", "its site opted out (X-Robots-Tag)", 1),
        ("/to-private", "refused: the address is not public", 1),
        ("/to-metadata", "refused: the address is not public", 1),
        ("/to-file", "refused: neither http nor https", 1),
        ("/to-credentials", "refused: credentials in the URL", 1),
        ("/to-nowhere", "malformed URL", 1),
        ("/loop", "too many redirects", 6),
    ],
)
def test_what_a_rude_server_does_is_a_reason_and_only_what_may_pass_is_tried_again(server, path, expected, visits):
    limits = {"read_timeout_s": 0.25, "total_timeout_s": 0.4} if expected.startswith("timed out") else {}
    assert reason(server.url + path, **limits) == expected
    assert server.hits[path] == visits


def test_a_second_try_may_succeed(server):
    assert fetch(f"{server.url}/break-once/4.jpg") == make_image(4)
    assert fetch(f"{server.url}/busy-once/5.jpg") == make_image(5)


def test_a_redirect_to_an_allowed_address_is_followed(server):
    assert fetch(f"{server.url}/to-good") == make_image(7)


def test_no_cookie_and_no_credentials_are_sent(server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for path in ("/good/1.jpg", "/good/2.jpg"):
        fetch(server.url + path)
    assert all(not {"cookie", "authorization"} & {name.lower() for name in seen} for seen in server.headers_seen)


def test_a_proxy_of_the_environment_is_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert fetch(f"{server.url}/good/3.jpg") == make_image(3)


def test_a_closed_port_is_tried_again_and_then_a_reason():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert reason(f"http://127.0.0.1:{taken.getsockname()[1]}/a.jpg") == "no connection"


def test_loopback_is_refused_unless_it_is_allowed(server):
    port = server.server_address[1]
    for url in (
        server.url,
        f"http://localhost:{port}",
        f"http://[::ffff:127.0.0.1]:{port}",
        f"http://2130706433:{port}",
    ):
        assert reason(f"{url}/good/1.jpg", allow_loopback=False).startswith("refused")
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0", "0x7f.1", "0.0.0.0"):
        assert reason(f"http://{host}/good/1.jpg", allow_loopback=False) == "refused: the address is not public"
    assert server.hits == {}


def test_a_name_is_resolved_once_and_the_checked_address_is_used(server, monkeypatch):
    """A name server that says a public address first and a private one afterwards gains nothing."""
    answers = iter(["127.0.0.1", "10.0.0.1"])
    asked = []

    def look_up(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    port = server.server_address[1]
    assert fetch(f"http://pictures.example:{port}/good/1.jpg") == make_image(1)
    assert [host for host in asked if host == "pictures.example"] == ["pictures.example"]
    assert server.headers_seen[-1]["Host"] == f"pictures.example:{port}"


def test_a_name_with_one_private_address_among_public_ones_is_refused(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "192.168.1.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert reason("http://mixed.example/a.jpg") == "refused: the address is not public"


def test_an_unknown_name_is_a_reason_and_a_name_server_that_is_busy_is_asked_again(monkeypatch):
    asked = []

    def fail(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME if host == "nobody.example" else socket.EAI_AGAIN, "no")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert reason("http://nobody.example/a.jpg") == "unknown host"
    assert reason("http://later.example/a.jpg") == "no connection"
    assert asked == ["nobody.example", "later.example", "later.example"]


def test_a_look_up_that_hangs_is_given_up(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(60))
    assert reason("http://slow.example/a.jpg", connect_timeout_s=0.05, tries=1) == "timed out"
    answered.set()


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "2002:7f00:1::",
        "2002:808:808::",
        "2001:0:53aa:64c:0:fbff:f5ff:fffe",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
    ],
)
def test_addresses_that_are_not_public_are_refused(address):
    assert not is_public(address)
    with pytest.raises(ImageError, match="not public"):
        check_address(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_pass(address):
    assert is_public(address)
    check_address(address)


@pytest.fixture
def secure_server(tmp_path, monkeypatch):
    """The server behind TLS, with a certificate for `pictures.example`, which resolves to this machine."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=pictures.example"),
            *("-addext", "subjectAltName=DNS:pictures.example"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names = []
    context.sni_callback = lambda _, name, __: names.append(name)
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    with RudeServer() as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        yield running, certificate, names


def test_over_tls_the_certificate_is_asked_for_by_the_hosts_name(secure_server, monkeypatch):
    running, certificate, names = secure_server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    port = running.server_address[1]
    assert fetch(f"https://pictures.example:{port}/good/1.jpg") == make_image(1)
    assert names == ["pictures.example"]
    assert reason(f"https://other.example:{port}/good/1.jpg") == "certificate not accepted"


def test_a_certificate_of_nobody_known_is_refused_at_once(secure_server):
    running, _, names = secure_server
    url = f"https://pictures.example:{running.server_address[1]}/good/1.jpg"
    assert reason(url) == "certificate not accepted"
    assert len(names) == 1
    assert running.hits == {}


def test_allowing_loopback_allows_nothing_else():
    check_address("127.0.0.1", allow_loopback=True)
    check_address("::1", allow_loopback=True)
    with pytest.raises(ImageError):
        check_address("10.0.0.1", allow_loopback=True)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://example.com/a.jpg", "refused: neither http nor https"),
        ("javascript:alert(1)", "refused: neither http nor https"),
        ("//example.com/a.jpg", "refused: neither http nor https"),
        ("", "refused: neither http nor https"),
        ("http:///a.jpg", "malformed URL"),
        ("http://[::1/a.jpg", "malformed URL"),
        ("http://example.com:99999999/", "malformed URL"),
        ("http://exa mple.com\x00/", "malformed URL"),
        ("http://user@example.com/", "refused: credentials in the URL"),
        ("http://user:pass@example.com/", "refused: credentials in the URL"),
        ("http://example.com:22/", "refused: a port other than 80 and 443"),
    ],
)
def test_addresses_that_are_refused_before_any_look_up(url, expected):
    with pytest.raises(ImageError) as failure:
        check_url(url)
    assert failure.value.reason == expected


def test_an_address_with_letters_outside_ascii_is_normalised():
    url = check_url("https://bücher.example/a b/ü.jpg?x=1 2")
    assert (url.raw_host, url.raw_path) == (b"xn--bcher-kva.example", b"/a%20b/%C3%BC.jpg?x=1%202")


def test_retry_after_is_a_number_or_a_date():
    assert retry_after_s("7") == 7
    assert retry_after_s("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert retry_after_s("Fri, 01 Jan 2100 00:00:00 GMT") > 1e6
    assert retry_after_s("soon") == retry_after_s("") == 0


@pytest.mark.parametrize(
    ("name", "value"), [("tries", 0), ("max_bytes", -1), ("total_timeout_s", 0.0), ("max_redirects", -1)]
)
def test_limits_that_allow_nothing_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        FetchLimits(**{name: value})


def test_a_bomb_is_refused_before_its_pixels_are_made():
    with pytest.raises(ImageError, match="too large: 9000 x 9000"):
        keep_image(make_bomb(9000, 9000), ImageLimits())


@pytest.mark.parametrize("changes", [{"max_pixels": 0}, {"min_side_px": 0}, {"max_side_px": 0}, {"quality": 101}])
def test_image_limits_are_checked(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        ImageLimits(**changes)
