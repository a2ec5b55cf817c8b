"""Base URLs of hosts, and the names of variables with their keys."""

import re
import string
from importlib import import_module
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.errors import OptionError
from command.options import Parser, api_key, check_one_credential, check_url, is_openai, split_credentials, split_hosts


@pytest.mark.parametrize(
    "url, used",
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("HTTP://LocalHost:8000/V1/", "http://localhost:8000/V1"),
        ("https://Bob:P%40w@Host.Example/v1", "https://Bob:P%40w@host.example/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://bob:p\"'w@host/v1", "http://bob:p\"'w@host/v1"),
        ("http://host", "http://host"),
    ],
)
def test_urls_as_they_are_used(url, used):
    assert check_url(url, "--base_host") == used and split_hosts(url, "--base_host") == [used]


@pytest.mark.parametrize(
    "url, message",
    [
        ("localhost:8000/v1", "with http:// or https:// before the host; it is 'localhost:8000/v1'"),
        ("bob:hunter2@host:8000", "with http:// or https:// before the host; it is '***@host:8000'"),
        ("ftp://host/v1", "must be a URL"),
        ("http:/host/v1", "must be a URL"),
        ("http://", "host and port cannot be read"),
        ("http://:8000/v1", "host and port cannot be read"),
        ("http://host:port/v1", "host and port cannot be read; it is 'http://host:***/v1'"),
        ("http://host:70000/v1", "host and port cannot be read"),
        ("http://[::1/v1", "host and port cannot be read"),
        ("http://bob:hunter2", "host and port cannot be read; it is 'http://bob:***'"),
        ("http://bob:hunt/er2@host/v1", "'http://***@host/v1'"),
        ("http://bob:12/hunter2@host/v1", "are written %2F %3F %23 %40 %3A; it is 'http://***@host/v1'"),
        ("http://bob:hunt?er2@host/v1", "'http://***@host/v1'"),
        ("http://bob:hunt er2@host/v1", "'http://***@host/v1'"),
        ("http://host/v1?key=hunter2", "without a query (?)"),
        ("http://host/v1?", "without a query (?)"),
        ("http://host/v1#hunter2", "without a fragment (#)"),
        ("http://host/v1/completions", "/completions is added to it: give http://host/v1"),
        ("http://host/v1/Chat/Completions/", "/Chat/Completions is added to it: give http://host/v1"),
        ("http://bob:hunter2@host/v1/completions", "give http://***@host/v1"),
    ],
)
def test_urls_that_cannot_be_used(url, message):
    with pytest.raises(OptionError) as error:
        check_url(url, "--base_host")
    assert message in str(error.value) and "hunter2" not in str(error.value) and "er2" not in str(error.value)


def test_a_password_with_a_comma_is_not_taken_for_two_hosts():
    with pytest.raises(OptionError) as error:
        split_hosts("http://bob:hunt,er2@host/v1", "--base_host")
    assert "a comma is written %2C; it is 'http://***@host/v1'" in str(error.value)


def test_the_same_host_in_other_letters_stands_there_twice():
    with pytest.raises(OptionError, match="names http://a/v1 twice"):
        split_hosts("http://a/v1,HTTP://A/v1/", "--base_host")


@given(st.text(string.printable, max_size=30), st.sampled_from(["http://", "HTTPS://", "", "x://"]))
def test_any_text_is_a_url_or_an_option_error(text, scheme):
    try:
        for url in split_hosts(scheme + text, "--base_host"):
            assert re.match(r"https?://[^/]", url)
    except OptionError as error:
        assert str(error).startswith("--base_host")


@given(st.text(string.printable, min_size=1, max_size=30).map(lambda text: f"q{text}7"))
def test_an_encoded_password_is_parted_from_its_url(password):
    url = check_url(f"http://bob:{quote(password, safe='')}@host/v1", "--base_host")
    assert split_credentials(url) == ("http://host/v1", f"bob:{quote(password, safe='')}")


def test_keys_in_the_place_of_names(monkeypatch):
    for given_key in ("sk-live-123", "gsk_aB3xYz", "AKIAIOSFODNN7EXAMPLE", "deadbeef01234567", "hf_AbCdEfGh"):
        with pytest.raises(OptionError) as error:
            api_key(given_key, "--base_api_key_env")
        assert "not the key itself" in str(error.value) and given_key not in str(error.value)
    with pytest.raises(OptionError, match="the environment variable TOGETHER_API_KEY is not set"):
        monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
        api_key("TOGETHER_API_KEY", "--base_api_key_env")
    monkeypatch.setenv("my-odd.name", " sk-live-123 ")
    assert api_key("my-odd.name", "--base_api_key_env") == "sk-live-123"


def test_a_password_and_a_key_are_one_too_many():
    check_one_credential("http://host/v1", "--base_host", "MY_KEY", "--base_api_key_env")
    check_one_credential("http://bob:pw@host/v1", "--base_host", None, "--base_api_key_env")
    with pytest.raises(OptionError, match="leave one out"):
        check_one_credential("http://a/v1,http://bob:pw@host/v1", "--base_host", "MY_KEY", "--base_api_key_env")


@pytest.mark.parametrize(
    "host, ours",
    [
        (None, True),
        ("https://api.openai.com/v1", True),
        ("HTTPS://EU.api.openai.com/v1", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com.evil.example/v1", False),
        ("https://api.openai.com@evil.example/v1", False),
        ("https://evil.example/api.openai.com", False),
        ("https://notapi.openai.com.example/v1", False),
    ],
)
def test_which_hosts_are_openais(host, ours):
    assert is_openai(host) == ours


@pytest.mark.parametrize(
    "command",
    """run_api eval_utils collect_model_outs measure_reward reporting.table reporting.html_report reporting.demo_screen
    experiment.merge cluster.sweep cluster.paper_table cluster.serve_models pad.fit_scorer demo.fetch""".split(),
)
def test_no_command_shows_a_key_that_it_was_given_by_mistake(command, capsys):
    words = ["a", "b", "c"][: 3 if command == "pad.fit_scorer" else 2 if command == "cluster.serve_models" else 1]
    with pytest.raises(SystemExit):
        import_module(command).main([*words, "-o", "page", "--api_key", "sk-live-123"])
    said = capsys.readouterr().err
    assert "error: " in said and "sk-live-123" not in said


def test_a_parser_shows_no_key(capsys):
    parser = Parser(prog="p")
    parser.add_argument("--base_host")
    for words in (["--api_key", "sk-live-123"], ["--base_host", "http://bob:hunter2 x@host", "hunter2"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
    said = capsys.readouterr().err
    assert "unrecognized arguments: --api_key ***" in said and "sk-live-123" not in said
