"""What goes with requests, and to whom: a server that keeps the headers of all of them."""

import base64

import httpx2
import openai
import pytest
from doubles import completion_reply

from command.errors import OptionError
from command.secrets import register
from language_models.hosted.chat import HostedChatModel
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.http import make_client, make_http
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ModelError, SamplingParams, TransientError

OPENAIS = {
    "OPENAI_API_KEY": "sk-for-openai",
    "OPENAI_ADMIN_KEY": "adm-for-openai",
    "OPENAI_ORG_ID": "org-for-openai",
    "OPENAI_PROJECT_ID": "proj-for-openai",
    "OPENAI_WEBHOOK_SECRET": "whs-for-openai",
    "OPENAI_CUSTOM_HEADERS": "X-Mine: for-openai\nAuthorization: Bearer for-openai\nUser-Agent: for-openai",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
}


@pytest.fixture
def openais(monkeypatch):
    for name, value in OPENAIS.items():
        monkeypatch.setenv(name, value)


def reply(path: str, body: dict | None):
    if path.endswith("chat/completions"):
        return 200, {}, {"choices": [{"message": {"content": "fine"}}]}
    return 200, {}, {"data": [{"id": "m"}]} if body is None else completion_reply()


def judge(host: str | None, key: str) -> HostedChatModel:
    return HostedChatModel("m", host, key, num_threads=1, request_timeout=5, max_retries=0, say=print)


@pytest.mark.parametrize("key", ["EMPTY", "sk-mine"])
def test_openais_variables_go_to_no_other_host(openais, reply_server, key):
    server = reply_server(reply)
    endpoint = OpenAIEndpoint("m", server.host, api_key=key)
    endpoint.probe(None)
    endpoint.complete("x", SamplingParams(2))
    assert judge(server.host, key).ask("how", "what").text == "fine"
    assert {path for path, _ in server.requests} >= {
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
        "/version",
    }
    for head in server.heads:
        assert head["authorization"] == f"Bearer {key}" and "openai" not in str(head).lower()
        assert set(head) <= {
            *("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"),
            *("user-agent", "x-stainless-raw-response"),
        }


def test_openai_gets_them(openais, monkeypatch):
    client = make_client(None, "sk-for-openai", make_http(None, 1, 5.0))
    sent = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, json={"data": []})

    monkeypatch.setattr(client._client, "_transport", httpx2.MockTransport(answer))
    client.models.list()
    assert str(sent[0].url) == "https://api.openai.com/v1/models"
    assert sent[0].headers["openai-organization"] == "org-for-openai" and sent[0].headers["x-mine"] == "for-openai"


@pytest.mark.parametrize(
    "userinfo, told", [("bob:p%40%2Fw", "bob:p@/w"), ("token", "token:"), ("bob:p@w'\"", "bob:p@w'\"")]
)
def test_user_and_password_of_a_url(reply_server, userinfo, told):
    server = reply_server(reply)
    endpoint = OpenAIEndpoint("m", server.host.replace("//", f"//{userinfo}@"))
    endpoint.complete("x", SamplingParams(2))
    assert [model.id for model in endpoint.client.models.list()] == ["m"]
    assert {head["authorization"] for head in server.heads} == {f"Basic {base64.b64encode(told.encode()).decode()}"}
    assert userinfo not in endpoint.where + str(endpoint.client.base_url) and "***@127.0.0.1" in endpoint.where


class TestRedirects:
    def to(self, reply_server, status: int, location: str):
        """A server that sends what comes to /old on, and its host with /old."""

        def moved(path: str, body):
            if path.startswith("/old"):
                return status, {"Location": location.replace("PATH", path.removeprefix("/old"))}, {}
            return reply(path, body)

        server = reply_server(moved)
        return server, server.host.replace("/v1", "/old/v1")

    @pytest.mark.parametrize("status", [307, 308])
    def test_on_the_server_with_the_request(self, reply_server, status):
        server, host = self.to(reply_server, status, "PATH")
        assert OpenAIEndpoint("m", host, api_key="k").complete("x", SamplingParams(2)).text == "hello"
        assert judge(host, "k").ask("how", "what").text == "fine"
        assert [body["model"] for path, body in server.requests if path.startswith("/v1")] == ["m", "m"]
        assert {head["authorization"] for head in server.heads} == {"Bearer k"}

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_to_another_server_none_is_followed(self, reply_server, status):
        other = reply_server(reply)
        _, host = self.to(reply_server, status, f"{other.host.removesuffix('/v1')}PATH")
        for ask in (
            lambda: OpenAIEndpoint("m", host, api_key="k-secret-1").complete("x", SamplingParams(2)),
            lambda: judge(host, "k-secret-1").ask("how", "what"),
        ):
            with pytest.raises(ModelError) as error:
                ask()
            assert not isinstance(error.value, TransientError)
            assert f"status {status}" in str(error.value) and f"is the host {other.host}?" in str(error.value)
        assert not other.requests

    @pytest.mark.parametrize("status", [301, 302, 303])
    def test_those_that_lose_the_request(self, reply_server, status):
        server, host = self.to(reply_server, status, "PATH")
        with pytest.raises(ModelError, match=f"is the host {server.host}?"):
            OpenAIEndpoint("m", host).complete("x", SamplingParams(2))
        assert [path for path, _ in server.requests] == ["/old/v1/completions"]

    @pytest.mark.parametrize(
        "location", ["http://bob:k-secret-1@far.example/v1/completions?k=k-secret-1", "http://[", ""]
    )
    def test_odd_addresses(self, reply_server, location):
        _, host = self.to(reply_server, 308, location)
        with pytest.raises(ModelError) as error:
            OpenAIEndpoint("m", host, api_key="k-secret-1").complete("x", SamplingParams(2))
        assert "k-secret-1" not in str(error.value)

    def test_one_that_never_ends(self, reply_server):
        server, host = self.to(reply_server, 307, "/oldPATH")
        with pytest.raises(ModelError, match="status 307"):
            OpenAIEndpoint("m", host).complete("x", SamplingParams(2))
        assert len(server.requests) < 10


def test_an_error_names_the_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://bob:hunter2@127.0.0.1:9")
    endpoint = OpenAIEndpoint("m", "http://203.0.113.1/v1", retry_policy=RetryPolicy(0))
    with pytest.raises(ModelError) as error:
        endpoint.complete("x", SamplingParams(2))
    assert "through the proxy http://***@127.0.0.1:9 (HTTP_PROXY): cannot be reached" in str(error.value)


def test_loopback_has_no_proxy(monkeypatch, reply_server):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    server = reply_server(reply)
    assert OpenAIEndpoint("m", server.host).complete("x", SamplingParams(2)).text == "hello"
    with pytest.raises(OptionError, match="needs the package socksio"):
        OpenAIEndpoint("m", "http://203.0.113.1/v1")


@pytest.mark.parametrize("name", ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"])
def test_variables_that_no_header_can_carry(monkeypatch, name):
    monkeypatch.setenv(name, "X-Name: ü")
    with pytest.raises(OptionError, match=f"{name} has characters"):
        judge("http://127.0.0.1:9/v1", "k")


def test_a_key_that_a_server_repeats(reply_server):
    key = 'k"secret/1'
    long = "x" * 282
    for content in ({"error": {"message": f"{long}{key}"}}, {"detail": "key=%6b%22secret%2F1"}, b"<p>k&quot;secret/1"):
        server = reply_server(lambda path, body, content=content: (400, {}, content))
        register(key)
        with pytest.raises(ModelError) as error:
            OpenAIEndpoint("m", server.host, api_key=key).complete("x", SamplingParams(2))
        assert "***" in str(error.value) and "secret" not in str(error.value)


def test_a_client_of_openai_keeps_no_address_of_the_environment(openais):
    assert isinstance(client := make_client(None, "k", make_http(None, 1, 5.0)), openai.OpenAI)
    assert str(client.base_url) == "https://api.openai.com/v1/"
