"""What serve_nudged.py says of a command line that cannot be: one line, before anything is loaded."""

import pytest

from serving.settings import parse_settings

DEMO = ("--base_model", "demo-base", "--nudging_model", "demo-aligned")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--port", "8011"),
            "a nudged pair needs --base_model: its name as served, a GGUF file, or a folder (--help has two examples)",
        ),
        (("--base_model", "big", "--nudging_model", "demo-aligned"), "a nudged pair needs --base_host: a URL such as"),
        ((*DEMO, "--host", "0.0.0.0"), "can be reached from other machines: name a variable with a key"),
        ((*DEMO, "--host", "::"), "can be reached from other machines"),
        ((*DEMO, "--port", "70000"), "--port is a number from 0 (any free one) to 65535; it is 70000"),
        ((*DEMO, "--max_concurrent", "0"), "--max_concurrent must be at least 1"),
        ((*DEMO, "--served_model_name", "a@b"), "--served_model_name is a word without @ and spaces"),
        ((*DEMO, "--api_key_env", "NO_SUCH_VARIABLE"), "the environment variable NO_SUCH_VARIABLE is not set"),
        ((*DEMO, "--criterion", "x"), "--criterion has no choice 'x'; choose one of: top_prob, token_prob"),
        ((*DEMO, "--criteria", "x"), "--criteria has no choice 'x'; choose one of: top_prob, token_prob"),
        *(
            ((*DEMO, "--cors_origin", origin), f"or * for all. It is '{origin}'")
            for origin in (
                "localhost:3000",
                "http://localhost:3000/",
                "http://a/v1",
                "http://",
                "null",
                "http://a,http://b",
            )
        ),
    ],
)
def test_what_cannot_be(options, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse_settings([*options])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("serve_nudged.py: error: ") and message in line


@pytest.mark.parametrize(
    "options",
    [
        ("--host", "0.0.0.0", "--no_key"),
        ("--host", "0.0.0.0", "--api_key_env", "KEY_OF_CLIENTS"),
        ("--host", "localhost", "--port", "0"),
        ("--cors_origin", "http://localhost:3000", "HTTPS://Page.example", "http://[::1]:3000", "*"),
    ],
)
def test_what_can_be(options, monkeypatch):
    monkeypatch.setenv("KEY_OF_CLIENTS", "sk-clients")
    settings = parse_settings([*DEMO, *options])
    assert settings.key in ("", "sk-clients") and settings.num_threads == 32
