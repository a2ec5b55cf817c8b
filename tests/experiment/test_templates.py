"""Which template a run's models are asked in: by option, by what they carry, by name; and runs that go on."""

import json

import pytest
from gguf_files import gguf_bytes
from runs import final_records, gsm8k_rows, one, run_api, write_rows

from command.errors import UserError
from experiment.command_line import parse_settings
from experiment.prompts import prompt_builders

HOST = "http://localhost:8000/v1"
OWN = "{% for m in messages %}({{ m['role'] }}){{ m['content'] }}{% endfor %}(answer)"
BASE = ["--base_model", "big", "--base_host", HOST]
CHAT = ["--proxy_chat_model", "{}", "--proxy_chat_host", HOST]
RUNS = {
    "nudging": ["--exp", "nudging", *BASE, "--nudging_model", "{}", "--nudging_host", HOST],
    "nudging_only": ["--exp", "nudging_only", "--nudging_model", "{}", "--nudging_host", HOST],
    "ensemble": ["--exp", "baseline", *BASE, *CHAT],
    "proxy_tuning": [
        *("--exp", "baseline", "--baseline_method", "proxy_tuning", *BASE, *CHAT),
        *("--proxy_base_model", "Qwen3-0.6B-Base", "--proxy_base_host", HOST),
    ],
}
UNKNOWN = ["Qwen/Qwen3-8B", "mistralai/Mistral-7B-Instruct-v0.3", "microsoft/Phi-4-mini-instruct", "lm"]
UNKNOWN += ["meta-llama/Llama-4-Scout-17B-16E-Instruct", "openai/gpt-oss-20b", "google/gemma-4-31B-it", "gemma-2-2b"]


def builders(run: str, model: object, *options: object):
    words = [str(word).replace("{}", str(model)) for word in RUNS[run]]
    return prompt_builders(parse_settings([*words, *map(str, options)]))


@pytest.mark.parametrize("model", UNKNOWN)
@pytest.mark.parametrize("run", RUNS)
def test_an_aligned_model_is_never_asked_in_plain_text_without_a_word(run, model):
    with pytest.raises(UserError) as error:
        builders(run, model)
    told = str(error.value)
    assert model in told and "--nudging_template tokenizer" in told and "--nudging_template plain" in told
    assert "\n" not in told
    plain = builders(run, model, "--nudging_template", "plain")
    assert {builder("SYS", "USER") for builder in plain.values()} == {"SYS\nUSER\n"}


@pytest.mark.parametrize("run", RUNS)
def test_a_served_model_is_known_by_its_name(run):
    found = builders(run, "accounts/fireworks/models/llama-v2-7b-chat")
    aligned = [builder for role, builder in found.items() if role in ("nudging", "proxy_chat")]
    assert [builder.template for builder in aligned] == ["llama-2 (by name)"]
    assert all(builder("SYS", "USER").startswith("[INST] <<SYS>>\nSYS\n") for builder in aligned)


def gguf_file(folder, name: str, template: str | None = OWN):
    told = {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__tokens": ("<s>",)}
    path = folder / name
    path.write_bytes(gguf_bytes(**told | ({"tokenizer__chat_template": template} if template else {})))
    return path


class TestGGUF:
    def options(self, nudging, base="b.gguf"):
        return ["--exp", "nudging", "--base_model", str(base), "--nudging_model", str(nudging)]

    def test_auto_reads_the_aligned_models_own(self, tmp_path):
        """Whatever the name says; a base model with a chat template is asked in plain text all the same."""
        base, chat = gguf_file(tmp_path, "base.gguf"), gguf_file(tmp_path, "gemma-2-2b-it.gguf")
        found = prompt_builders(parse_settings(self.options(chat, base)))
        assert found["nudging"]("SYS", "USER") == "(system)SYS(user)USER(answer)"
        assert found["base"]("SYS", "USER") == "SYS\nUSER\n"
        by_option = prompt_builders(parse_settings([*self.options(chat, base), "--nudging_template", "gemma"]))
        assert by_option["nudging"]("SYS", "USER").startswith("<start_of_turn>user")

    def test_one_that_carries_none_goes_by_its_name(self, tmp_path):
        chat = gguf_file(tmp_path, "gemma-2-2b-it.gguf", None)
        assert prompt_builders(parse_settings(self.options(chat)))["nudging"].template == "gemma (by name)"
        with pytest.raises(
            UserError, match="carries no chat template, and its name tells .*; --nudging_template tokenizer:FOLDER"
        ):
            prompt_builders(parse_settings(self.options(gguf_file(tmp_path, "x.gguf", None))))

    def test_for_a_served_model_and_by_option(self, tmp_path):
        chat = gguf_file(tmp_path, "x.gguf")
        found = builders("nudging", "Qwen3-8B", "--nudging_template", f"tokenizer:{chat}")
        assert found["nudging"]("SYS", "USER") == "(system)SYS(user)USER(answer)"
        same = prompt_builders(parse_settings([*self.options(chat), "--nudging_template", "tokenizer"]))
        assert same["nudging"]("SYS", "USER") == "(system)SYS(user)USER(answer)"
        with pytest.raises(UserError, match="carries no chat template; choose a template by name"):
            bare = gguf_file(tmp_path, "bare.gguf", None)
            builders("nudging", "Qwen3-8B", "--nudging_template", f"tokenizer:{bare}")
        with pytest.raises(UserError, match="behind a server: name a file or hub id with its chat template"):
            builders("nudging", "Qwen3-8B.gguf", "--nudging_template", "tokenizer")

    def test_a_model_that_thinks_in_any_case_is_told(self, tmp_path, capsys):
        switch = "{% if not enable_thinking %}<think></think>{% else %}<think>{% endif %}"
        for name, end, warned in (("a.gguf", "<think>\n", True), ("b.gguf", switch, False)):
            prompt_builders(parse_settings(self.options(gguf_file(tmp_path, name, OWN + end))))
            assert ("--nudging_model (the model's own) opens a block of thoughts" in capsys.readouterr().err) == warned

    def test_files_that_are_none(self, tmp_path):
        (tmp_path / "broken.gguf").write_bytes(b"no weights")
        with pytest.raises(UserError, match="is it a GGUF file, and whole"):
            prompt_builders(parse_settings(self.options(tmp_path / "broken.gguf")))
        with pytest.raises(UserError, match="there is no file"):
            prompt_builders(parse_settings(self.options(tmp_path / "missing.gguf")))


@pytest.mark.slow
class TestRunsThatGoOn:
    """A run's template is known by the prompts in its records, whatever it was called."""

    @pytest.fixture
    def begun(self, server, tmp_path):
        """A run whose last answer is missing, begun with auto when that was plain text for a name without a family."""
        data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(2))
        options = ["--exp", "nudging_only", "--nudging_model", "base-lm", "--nudging_host", server.host]
        options += ["--max_token_total", "12", "--data_dir", data, "--output_dir", tmp_path / "out"]
        assert run_api(*options, "--nudging_template", "plain").returncode == 0
        log, run = one(tmp_path / "out", "*.jsonl"), one(tmp_path / "out", "*.run.json")
        log.write_text(log.read_text().splitlines(keepends=True)[0])
        metadata = json.loads(run.read_text())
        metadata["settings"]["nudging_template"] = "auto"
        run.write_text(json.dumps(metadata))
        return options, tmp_path / "out"

    def test_under_the_same_template_by_another_name(self, begun):
        options, out = begun
        stopped = run_api(*options)
        assert stopped.returncode == 2 and "--nudging_template plain" in stopped.stderr
        finished = run_api(*options, "--nudging_template", "plain")
        assert finished.returncode == 0 and "1 of 2 answers are there already" in finished.stderr
        assert len({record["full_prefix_nudging"].count("[INST]") for record in final_records(out)}) == 1
        metadata = json.loads(one(out, "*.run.json").read_text())
        assert metadata["settings"]["nudging_template"] == "auto"
        assert [session["templates"] for session in metadata["sessions"]] == [{"nudging": "plain"}] * 2

    def test_never_under_another_template(self, begun):
        options, out = begun
        before = one(out, "*.jsonl").read_text()
        refused = run_api(*options, "--nudging_template", "gemma")
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
        assert "sample 0 was asked of the nudging model in another prompt" in refused.stderr
        assert "go on with --nudging_template plain" in refused.stderr
        assert one(out, "*.jsonl").read_text() == before
