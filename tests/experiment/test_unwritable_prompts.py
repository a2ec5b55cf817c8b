"""Samples whose prompts cannot be written: each fails by itself, with the template and its words; the others go on."""

import contextlib

import pytest
from gguf_files import gguf_bytes
from judge_server import record
from runs import final_records, gsm8k_rows, nudging_options, run_api, write_rows

from datasets_loader import DATA_SETS, Example
from experiment import connect
from experiment.command_line import parse_settings
from experiment.judge import judge_records
from experiment.judge_settings import JudgeSettings
from experiment.prompts import PromptBuilder, PromptError
from experiment.sample import answer_one, describe, unwritable
from language_models.interface import ChatReply, Completion, Usage

GSM8K = DATA_SETS["gsm8k"]
RAISES_ON_A_WORD = (
    "{% for m in messages %}{% if 'zebra' in m['content'] %}{{ raise_exception('no zebras here') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
)


def raises(error: BaseException):
    def write(system: str, user: str) -> str:
        raise error

    return write


class Model:
    """Answers everything; `asked` are its prompts."""

    name, runs_ahead = "model", True

    def __init__(self):
        self.asked: list[str] = []

    def for_sample(self, sample_id):
        return self

    def complete(self, prompt, params):
        self.asked.append(prompt)
        return Completion("4", (), "stop", Usage())


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (raises(ValueError("no zebras here")), "ValueError: no zebras here"),
        (raises(KeyError("content")), "KeyError: 'content'"),
        (raises(AssertionError()), "AssertionError"),
        (raises(RecursionError("too deep\nin a template")), "too deep in a template"),
        (lambda system, user: None, "it gives None"),
        (lambda system, user: "", "it gives ''"),
        (lambda system, user: " \n", r"it gives ' \n'"),
        (lambda system, user: b"bytes", "it gives b'bytes'"),
    ],
)
def test_whatever_a_template_does_the_sample_fails_with_its_words(write, said):
    settings = parse_settings(["--exp", "base_only", "--base_model", "m", "--base_host", "http://localhost:1/v1"])
    builders = {"base": PromptBuilder(write, "of somebody")}
    with pytest.raises(PromptError):
        builders["base"]("S", "U")
    found = answer_one(settings, GSM8K, 0, Example(7, "What?", "4"), builders, {"base": Model()}, "published")
    assert (
        found["error"].startswith("the prompt cannot be written in the template of somebody (")
        and said in found["error"]
    )
    assert found["id"] == 7 and "raw_answer" not in found and "full_prefix_base" not in found


def test_half_a_character_is_asked_as_a_replacement_character():
    settings = parse_settings(["--exp", "base_only", "--base_model", "m", "--base_host", "http://localhost:1/v1"])
    model, builders = Model(), {"base": PromptBuilder(lambda system, user: user, "plain")}
    found = answer_one(
        settings, GSM8K, 0, Example(0, "a\ud83d b \U0001f9ec", "4"), builders, {"base": model}, "published"
    )
    assert "error" not in found and found["question"] == "a\ud83d b \U0001f9ec"
    assert model.asked == [found["full_prefix_base"]] and model.asked[0].endswith("a\ufffd b \U0001f9ec")


def test_a_run_goes_on_over_such_samples(server, tmp_path):
    """As a user meets it; then the whole again, by a dry run, and by a template that raises on all that is answered."""
    rows = gsm8k_rows(3)
    rows[1]["question"] += " Beside them stands a zebra."
    rows[2]["question"] += " \ud83d"
    data, template = write_rows(tmp_path / "data", "gsm8k", rows), tmp_path / "model.gguf"
    template.write_bytes(gguf_bytes(tokenizer__chat_template=RAISES_ON_A_WORD))
    options = [*nudging_options(server.host, data, tmp_path / "out"), "--nudging_template", f"tokenizer:{template}"]
    finished = run_api(*options)
    assert finished.returncode == 1 and "Traceback" not in finished.stderr, finished.stderr
    assert "1 of 3 samples failed" in finished.stderr
    first, failed, half = final_records(tmp_path / "out")
    assert str(template) in failed["error"] and "no zebras here" in failed["error"]
    assert first["raw_answer"] and half["raw_answer"] and "\ufffd" in half["full_prefix_base"]
    dry = run_api(*options, "--dry_run")
    assert dry.returncode == 1 and "1 of 3 samples would fail; the first: row 1: " in dry.stderr, dry.stderr
    template.write_bytes(gguf_bytes(tokenizer__chat_template=RAISES_ON_A_WORD.replace("zebra", "Tom")))
    again = run_api(*options)
    assert again.returncode == 2 and "Traceback" not in again.stderr and "in another prompt" in again.stderr, (
        again.stderr
    )


def test_a_model_of_this_process_is_told_the_length_of_what_can_be_written(monkeypatch):
    served = []

    @contextlib.contextmanager
    def serve(name, **options):
        served.append(options["context_length"])
        yield "http://127.0.0.1:1/v1"

    monkeypatch.setattr(connect, "serve", serve)
    settings = parse_settings(["--exp", "base_only", "--base_model", "x.gguf", "--max_token_total", "10"])

    def write(system: str, user: str) -> str:
        if "zebra" in user:
            raise ValueError("no zebras here")
        return user

    builders = {"base": PromptBuilder(write, "of somebody")}
    examples = [Example(0, "zebra " * 100, "4"), Example(1, "Who?", "4"), Example(2, "zebra", "4")]
    for asked in (examples, examples[:1]):  # none of the latter can be asked: all fail, one by one
        with contextlib.ExitStack() as servers:
            connect.embedded_hosts(settings, connect.lengths(settings, GSM8K, asked, builders), servers)
    assert served[1] < served[0] < 100
    assert unwritable(GSM8K, examples, builders).keys() == {0, 2}
    assert "it cannot be written" in describe(settings, GSM8K, examples, builders)


class OddJudge:
    """Fails in a way that nobody has foreseen where it is asked about a zebra."""

    name, num_threads = "odd", 2

    def ask(self, instructions: str, question: str) -> ChatReply:
        if "zebra" in question:
            raise BaseException("a panic")
        return ChatReply('{"reason": "", "correct": 1}')


def test_one_odd_record_does_not_end_the_judging():
    records = [record(0), record(1, question="zebra"), record(2)]
    came = judge_records(records, "judge", JudgeSettings(), OddJudge(), lambda entry: None)
    assert (came.read, came.failed, came.error) == (2, 1, "BaseException: a panic")
    assert [bool(one.get("scores")) for one in records] == [True, False, True]
