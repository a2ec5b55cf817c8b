"""Keys and passwords are masked in every way in which they may come back."""

import base64
import html
import json
import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import secrets
from command.secrets import hide, hide_in, register, register_arguments, register_table, register_url, without_password

PRINTABLE = string.ascii_letters + string.digits + string.punctuation
# A digit and a letter in it, so that it is no word that texts have anyhow.
SECRETS = st.text(PRINTABLE, min_size=6, max_size=60).map(lambda text: f"q{text}7")
WRITTEN = [
    str,
    lambda secret: quote(secret, safe=""),
    lambda secret: quote(secret, safe="").lower(),
    quote_plus,
    lambda secret: quote(quote(secret, safe=""), safe=""),
    lambda secret: "".join(f"%{ord(c):02X}" for c in secret),
    lambda secret: json.dumps(secret)[1:-1],
    lambda secret: json.dumps(json.dumps(secret))[3:-3],
    lambda secret: "".join(f"\\u{ord(c):04x}" for c in secret),
    lambda secret: repr(secret)[1:-1],
    html.escape,
    lambda secret: secret.replace("/", "\\/"),
    str.upper,
]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})


def forget() -> None:
    secrets._known = {}


@given(SECRETS, st.sampled_from(WRITTEN))
def test_in_every_way_of_writing(secret, written):
    forget()
    register(secret)
    assert hide(f'refused: "{written(secret)}" is no key') == 'refused: "***" is no key'


# Where a key itself has what looks like an escape, a cut through that is another text.
@given(SECRETS.filter(lambda secret: len(secret) >= 16 and not set("\\%&") & set(secret)), st.data())
def test_cut_off_at_the_end(secret, data):
    forget()
    register(secret)
    at = data.draw(st.integers(max(10, len(secret) // 2), len(secret)))
    assert secret[:at] not in hide(f"no such key: {secret[:at]}")


@given(st.text(PRINTABLE, min_size=4, max_size=20), st.sampled_from(["http://", "HTTPS://", "", "http:/", "ftp://"]))
def test_passwords_of_urls(inner, scheme):
    forget()
    password = f"q{inner}7"
    url = f"{scheme}bob:{password}@host.example:8000/v1"
    assert without_password(url) == f"{scheme}***@host.example:8000/v1"
    register_url(url)
    for text in (url, f"GET {url} failed", f"password {password} is wrong", f"Basic {basic(f'bob:{password}')}"):
        assert password not in hide(text) and basic(f"bob:{password}") not in hide(text)


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "url, shown",
    [
        ("user:pw@host:8000", "***@host:8000"),
        ("http://tok@host/v1", "http://***@host/v1"),
        ("http://u:a/b@host/v1", "http://***@host/v1"),
        ("http://u:p@ss@host/v1", "http://***@host/v1"),
        ("http://u:a,b@host/v1", "http://***@host/v1"),
        ("http://u:a@x/v1,http://u:b@y/v1", "http://***@x/v1,http://***@y/v1"),
        ("http://host/v1?key=abc", "http://host/v1?***"),
        ("http://host/v1#abc", "http://host/v1#***"),
        ("http://user:secret", "http://user:***"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_urls_are_shown_without_secrets(url, shown):
    assert without_password(url) == shown


@pytest.mark.parametrize("short", ["a", "pw", "EMPTY", "stop", "none", "12345", ""])
def test_short_words_do_not_garble_texts(short):
    register(short)
    text = f"an EMPTY {short} stop a pw none 12345 tokens"
    assert hide(text) == text
    register_url(f"http://bob:{short}@host/v1")
    assert hide(text) == text and f"bob:{short}@" not in hide(f"GET http://bob:{short}@host/v1")


def test_a_word_is_masked_as_a_word():
    register("hunter2")
    assert hide("hunter2 shunter2 hunter23 (hunter2)") == "*** shunter2 hunter23 (***)"


def test_what_is_no_text_stays():
    register("secret-5")
    told = {"n": 3, "secret-5": [1.5, None, True, "with secret-5"], "t": ("secret-5",)}
    assert hide_in(told) == {"n": 3, "secret-5": [1.5, None, True, "with ***"], "t": ["***"]}


@pytest.mark.parametrize(
    "words",
    [
        ["--base_api_key_env", "sk-live-123"],
        ["--base_api_key_env=sk-live-123"],
        ["--api_key", "sk-live-123"],
        ["--api-key=sk-live-123"],
        ["--judge_api_key_env", "Bearer", "sk-live-123"],
        ["--hf_token", "sk-live-123"],
        ["--base_options", "--max-model-len 5 --api-key sk-live-123"],
        ["--base_host", "http://bob:sk-live-123@host/v1"],
        ["--base_host", "bob:sk-live-123@host"],
        ["--base_host", "http://host/v1?key=sk-live-123"],
    ],
)
def test_keys_of_command_lines(words):
    register_arguments(words)
    assert "sk-live-123" not in hide(f"unrecognized arguments: {' '.join(words)}")


def test_names_of_variables_and_other_words_stay():
    words = ["--base_api_key_env", "TOGETHER_API_KEY", "--end_tokens", "<end-of-text>", "--max_token_total", "1234567"]
    register_arguments([*words, "--tokenizer", "org/model-7b"])
    assert hide(" ".join(words) + " org/model-7b") == " ".join(words) + " org/model-7b"


def test_keys_of_config_files():
    register_table({"pairs": [{"base_api_key_env": "sk-live-123"}], "options": {"judge_api_key_env": ["sk-live-456"]}})
    assert hide("sk-live-123 sk-live-456") == "*** ***"
