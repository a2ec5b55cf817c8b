"""No file of a run holds a key or a password, whatever a server says; what a model answers stays as it is."""

import json

import pytest
from doubles import completion_reply
from runs import final_records, one, run_api

from command import secrets
from experiment.result_files import ResultFiles

KEY = 'sk-live"4f8a/9b2c'


@pytest.mark.parametrize("password", [False, True])
def test_a_server_that_repeats_the_key_everywhere(reply_server, data_dir, tmp_path, password):
    def reply(path: str, body: dict | None):
        if body is None:
            named = {"data": [{"id": "lm", "owned_by": KEY}, {"id": f"x {KEY}"}]}
            return 200, {"Server": "x"}, named if path.endswith("models") else {"version": KEY, "build_info": KEY}
        if "apples and buys 4" in body["prompt"]:
            return 400, {"X-Key": "x"}, {"error": {"message": f"refused {KEY}", "code": KEY}}
        return 200, {}, completion_reply(text=f"It is {KEY}", tokens=(f"It is {KEY}",), finish_reason="length")

    server = reply_server(reply)
    coded = KEY.replace('"', "%22").replace("/", "%2f")
    host = server.host.replace("http://", f"http://bob:{coded}@") if password else server.host
    options = ["--exp", "base_only", "--base_model", "lm", "--base_host", host, "--data_dir", data_dir]
    options += ["--output_dir", tmp_path / "out", "--max_retries", 0]
    options += [] if password else ["--base_api_key_env", "MY_KEY"]
    finished = run_api(*options, env={"MY_KEY": KEY})
    assert finished.returncode == 1, finished.stderr
    assert "refused ***" in finished.stderr and "4f8a" not in finished.stderr + finished.stdout
    records = final_records(tmp_path / "out")
    assert [record.get("raw_answer") for record in records].count(f"It is {KEY}") == 5
    for record in records:
        assert "4f8a" not in json.dumps(record | {"raw_answer": "", "extracted_answer": ""})
    for pattern in ("*.run.json", "*.summary.json"):
        assert "4f8a" not in one(tmp_path / "out", pattern).read_text()


def test_what_is_read_back_is_not_garbled(tmp_path, monkeypatch):
    """A password may be a word that settings have as well."""
    monkeypatch.setattr(secrets, "_known", {})
    secrets.register_url("http://bob:published@host/v1")
    files = ResultFiles(tmp_path, "n", tmp_path)
    decisive, session = (
        {"base_model": "published"},
        {"calls": "published", "command": ["a", "http://bob:published@host/v1"]},
    )
    every = {
        "base_model": "published",
        "base_host": "http://bob:published@host/v1",
        "judge_host": None,
        "num_threads": 3,
    }
    files.write_run({"settings": decisive, "all_settings": every, "sessions": [session, 7]})
    assert json.loads(files.run.read_text()) == {
        "settings": decisive,
        "all_settings": every | {"base_host": "http://***@host/v1"},
        "sessions": [{"calls": "published", "command": ["a", "http://***@host/v1"]}, 7],
    }
