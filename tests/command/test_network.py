"""Which proxy is used for a server, and what the environment cannot be."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.errors import OptionError
from command.network import check_certificates, is_own, proxy_for

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*VARIABLES, *map(str.lower, VARIABLES), "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def shown(url: str) -> str | None:
    proxy = proxy_for(url)
    return proxy and proxy.shown


OWN = ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "127.9.8.7", "[::1]", "0.0.0.0", "[::]"]


@pytest.mark.parametrize("name", [*OWN, "[::ffff:127.0.0.1]", socket.gethostname()])
@pytest.mark.parametrize("proxy", ["http://proxy:3128", "socks5://proxy", "nonsense://", "http://"])
def test_servers_of_this_machine_have_no_proxy(environment, name, proxy):
    for variable in VARIABLES[:3]:
        environment.setenv(variable, proxy)
    assert shown(f"http://{name}:8000/v1") is None and shown(f"HTTPS://{name}/v1") is None


@given(st.integers(0x7F000000, 0x7FFFFFFF))
def test_all_of_127_is_own(address):
    assert is_own(".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0)))


@pytest.mark.parametrize("name", ["example.com", "localhost.example.com", "203.0.113.5", "128.0.0.1", "notlocalhost"])
def test_others_are_not_own(name):
    assert not is_own(name)


@pytest.mark.parametrize(
    "variables, url, proxy",
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://far.example/v1", "the proxy http://p:1 (HTTP_PROXY)"),
        ({"http_proxy": "p:1"}, "http://far.example/v1", "the proxy http://p:1 (http_proxy)"),
        ({"HTTPS_PROXY": "http://bob:pw@p:1"}, "https://far.example", "the proxy http://***@p:1 (HTTPS_PROXY)"),
        ({"HTTP_PROXY": "http://p:1"}, "https://far.example/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "https://far.example/v1", "the proxy http://p:1 (ALL_PROXY)"),
        (
            {"ALL_PROXY": "socks5://a:1", "HTTPS_PROXY": "p:1"},
            "https://far.example",
            "the proxy http://p:1 (HTTPS_PROXY)",
        ),
        (
            {"HTTP_PROXY": "HTTP://p:1", "http_proxy": "http://q:1"},
            "HTTP://far.example",
            "the proxy http://q:1 (http_proxy)",
        ),
        ({"HTTP_PROXY": "p", "NO_PROXY": "far.example"}, "http://far.example/v1", None),
        ({"HTTP_PROXY": "p", "NO_PROXY": "a, .example"}, "http://far.example/v1", None),
        ({"HTTP_PROXY": "p", "NO_PROXY": "*.example"}, "http://far.example/v1", None),
        ({"HTTP_PROXY": "p", "NO_PROXY": "ar.example"}, "http://far.example", "the proxy http://p (HTTP_PROXY)"),
        ({"HTTP_PROXY": "socks5://p", "NO_PROXY": "*"}, "http://far.example/v1", None),
        ({"HTTP_PROXY": "p", "no_proxy": "203.0.113.0/24"}, "http://203.0.113.7:8000/v1", None),
        ({"HTTP_PROXY": "p", "NO_PROXY": "far.example:8000"}, "http://far.example:8000/v1", None),
        (
            {"HTTP_PROXY": "p", "NO_PROXY": "far.example:80"},
            "http://far.example:8000",
            "the proxy http://p (HTTP_PROXY)",
        ),
        ({"HTTP_PROXY": ""}, "http://far.example/v1", None),
    ],
)
def test_the_proxy_of_a_server(environment, variables, url, proxy):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert shown(url) == proxy


@pytest.mark.parametrize(
    "value, message",
    [
        ("socks5://p:1080", "needs the package socksio"),
        ("socks5h://p:1080", "needs the package socksio"),
        ("socks4://p:1080", "'socks4' are not known here"),
        ("ftp://p:21", "'ftp' are not known here"),
        ("http://", "is no URL of a proxy"),
        ("http://p:port", "is no URL of a proxy: 'http://p:***'"),
        ("http://bob:hunter2@p:99999", "is no URL of a proxy"),
        ("p q", "is no URL of a proxy"),
    ],
)
def test_proxies_that_cannot_be_used(environment, value, message):
    environment.setenv("ALL_PROXY", value)
    with pytest.raises(OptionError) as error:
        proxy_for("https://far.example/v1")
    assert str(error.value).startswith("ALL_PROXY") and message in str(error.value)
    assert "hunter2" not in str(error.value) and "far.example into NO_PROXY" in str(error.value)


def test_certificates_that_are_not_there(environment, tmp_path):
    check_certificates()
    (tmp_path / "none.pem").write_text("no certificate")
    for variable, path, message in (
        ("SSL_CERT_FILE", tmp_path / "gone.pem", "names no file"),
        ("SSL_CERT_FILE", tmp_path, "names no file"),
        ("SSL_CERT_FILE", tmp_path / "none.pem", "no certificates in it"),
        ("SSL_CERT_DIR", tmp_path / "gone", "names no folder"),
        ("SSLKEYLOGFILE", tmp_path / "gone/keys.log", "cannot be written"),
        ("SSLKEYLOGFILE", tmp_path, "cannot be written"),
    ):
        with environment.context() as set_here:
            set_here.setenv(variable, str(path))
            with pytest.raises(OptionError, match=f"{variable} .*{message}"):
                check_certificates()
    environment.setenv("SSL_CERT_DIR", str(tmp_path))
    environment.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    check_certificates()
