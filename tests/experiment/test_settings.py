import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import REPOSITORY
from waiting import HANG

from datasets_loader import DATA_SETS
from experiment.command_line import parse_settings
from experiment.settings import EXPERIMENTS, RunSettings, SettingsError
from nudging import NudgingSettings
from utils import INSTRUCT_TEMPLATES

PUBLISHED_DEFAULTS = {
    "dataset_name": "gsm8k",
    "num_samples": None,
    "num_threads": 20,
    "base_model": None,
    "nudging_model": None,
    "proxy_base_model": None,
    "proxy_chat_model": None,
    "base_host": None,
    "nudging_host": None,
    "proxy_base_host": None,
    "proxy_chat_host": None,
    "completion_token_num": 16,
    "completion_token_num_nudging": 16,
    "max_token_total": 512,
    "base_temperature": 0.0,
    "base_top_p": 0.9,
    "nudging_temperature": 0.0,
    "nudging_top_p": 0.9,
    "baseline_method": "ensemble",
    "top_prob_thres": 0.3,
    "exp": "nudging_only",
    "exp_prefix": "",
    "rerun": False,
    "print_intermediate_output": False,
}

BASE = "--base_model llama/Llama-2-70b-hf --base_host http://localhost:8000/v1"
NUDGING = "--nudging_model llama/Llama-2-7b-chat-hf --nudging_host http://localhost:8001/v1"
CHAT = "--proxy_chat_model llama/Llama-2-7b-chat-hf --proxy_chat_host http://localhost:8001/v1"
SMALL = "--proxy_base_model llama/Llama-2-7b-hf --proxy_base_host http://localhost:8002/v1"
RUNS = {
    "base_only": f"--exp base_only {BASE}",
    "nudging_only": f"--exp nudging_only {NUDGING}",
    "nudging": f"--exp nudging {BASE} {NUDGING}",
    "ensemble": f"--exp baseline {BASE} {CHAT}",
    "proxy_tuning": f"--exp baseline --baseline_method proxy_tuning {BASE} {CHAT} {SMALL}",
}


def parse(run: str, *more: str) -> RunSettings:
    return parse_settings([*shlex.split(RUNS.get(run, run)), *more])


def error_of(capsys, *words: str) -> str:
    """The message with which a command line is refused, after the program's name."""
    with pytest.raises(SystemExit) as stop:
        parse_settings(list(words))
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert printed.err.startswith("run_api.py: error: ") and 1 <= printed.err.count("\n") <= 2
    return printed.err.removeprefix("run_api.py: error: ")


@pytest.fixture(scope="module")
def help_text():
    run = subprocess.run(
        [sys.executable, REPOSITORY / "run_api.py", "--help_all"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "300"},  # no line breaks in the middle of a default
        timeout=HANG,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


class TestCommandLine:
    def test_defaults_are_the_published_programs(self):
        defaults = {field.name: field.default for field in dataclasses.fields(RunSettings)} | {"dataset_name": "gsm8k"}
        assert {name: defaults.get(name) for name in PUBLISHED_DEFAULTS} == PUBLISHED_DEFAULTS
        settings = parse("nudging_only")
        given = {"nudging_model": "llama/Llama-2-7b-chat-hf", "nudging_host": "http://localhost:8001/v1"}
        assert dataclasses.asdict(settings) == defaults | given
        assert settings.used_split == "test"

    @pytest.mark.parametrize(
        "name, value",
        [
            (name, {str: "mmlu", int: 7, float: 0.25, bool: True}[type(default if default is not None else "")])
            for name, default in PUBLISHED_DEFAULTS.items()
            if name not in ("num_samples", "exp", "baseline_method") and not name.endswith("_host")
        ]
        + [("num_samples", 7), ("split", "train"), ("baseline_method", "proxy_tuning")],
    )
    def test_every_option_is_taken(self, name, value):
        words = [f"--{name}"] if value is True else [f"--{name}", str(value)]
        assert getattr(parse("nudging_only", *words), name) == value

    @pytest.mark.parametrize(
        "command, expected",
        [
            (
                f"--exp base_only {BASE} --dataset_name gsm8k --num_sample 100 --num_threads 20 --rerun",
                {"exp": "base_only", "base_model": "llama/Llama-2-70b-hf"},
            ),
            (
                f"--exp nudging_only {NUDGING} --dataset_name gsm8k --num_sample 100 --num_threads 20 --rerun",
                {"exp": "nudging_only", "nudging_host": "http://localhost:8001/v1"},
            ),
            (
                f"--exp nudging {BASE} {NUDGING} --dataset_name gsm8k --top_prob_thres 0.4 "
                "--num_sample 100 --num_threads 20 --rerun",
                {"exp": "nudging", "top_prob_thres": 0.4},
            ),
            (
                f"--exp baseline --baseline_method proxy_tuning {BASE} {SMALL} "
                "--proxy_chat_model llama/Llama-2-7b-chat-hf --proxy_nudging_host http://localhost:8001/v1 "
                "--dataset_name gsm8k --num_sample 100 --num_threads 20 --rerun",
                {"baseline_method": "proxy_tuning", "proxy_chat_host": "http://localhost:8001/v1"},
            ),
        ],
    )
    def test_spellings_of_the_published_readme(self, command, expected):
        settings = vars(parse(command))
        assert settings.items() >= (expected | {"num_samples": 100, "num_threads": 20, "rerun": True}).items()

    def test_end_tokens_are_a_list(self):
        assert parse("nudging", "--end_tokens", "<|fin|>", "</fin>").end_tokens == ("<|fin|>", "</fin>")
        assert parse("nudging").end_tokens == ()

    def test_help_lists_every_option_with_its_default(self, help_text):
        for name in [*(field.name for field in dataclasses.fields(RunSettings)), "num_sample", "proxy_nudging_host"]:
            assert re.search(rf"^ .*--{name}\b", help_text, re.M), name
        assert re.search(r"--dataset_name .*\(default: gsm8k\)", re.sub(r"\s+", " ", help_text))
        for name in ("top_prob_thres", "max_token_total", "output_dir", "exp", "num_threads"):
            default = RunSettings.__dataclass_fields__[name].default
            assert re.search(rf"--{name} .*\(default: {default}\)", help_text), name

    def test_help_shows_an_example_of_every_experiment(self, help_text):
        examples = help_text[help_text.index("\nexamples") :].replace("\\\n", " ").splitlines()
        commands = [line.split("run_api.py", 1)[1] for line in examples if "python run_api.py" in line]
        shown = [parse(command) for command in commands]
        assert {(settings.exp, settings.baseline_method) for settings in shown} == {
            *((exp, "ensemble") for exp in EXPERIMENTS),
            ("baseline", "proxy_tuning"),
        }


class TestValidation:
    @pytest.mark.parametrize(
        "option, value, says",
        [
            ("dataset_name", "gsm9k", ", ".join(DATA_SETS)),
            ("exp", "nudge", ", ".join(EXPERIMENTS)),
            ("baseline_method", "mean", "ensemble, proxy_tuning"),
            ("judge", "gpt", "auto, rule, none"),
            ("base_template", "vicuna", ", ".join(INSTRUCT_TEMPLATES)),
            ("nudging_template", "tokeniser", "tokenizer"),
            ("completion_token_num", "0", "at least 1"),
            ("completion_token_num_nudging", "-1", "at least 1"),
            ("max_token_total", "0", "at least 1"),
            ("num_threads", "0", "at least 1"),
            ("num_samples", "0", "at least 1"),
            ("max_retries", "-1", "0 or more"),
            ("max_outage", "-1", "0 or more"),
            ("max_outage", "inf", "0 or more"),
            ("nudging_host", "http://a:1/v1,b:1/v1", "must be a URL"),
            ("nudging_host", "http://a:1/v1,http://a:1/v1/", "twice"),
            ("nudging_host", "http://a:1/v1?key=5", "must be a URL"),
            ("judge_host", "http://a:1/v1,http://b:1/v1", "must be a URL"),
            ("request_timeout", "0", "above 0"),
            ("request_timeout", "inf", "at most 86400"),
            ("judge_host", "localhost:8000/v1", "must be a URL"),
            ("nudging_host", "http://", "must be a URL"),
            ("nudging_api_key_env", "sk-12345", "not the key itself"),
            ("top_prob_thres", "1.1", "0 to 1"),
            ("top_prob_thres", "-0.1", "0 to 1"),
            ("top_prob_thres", "nan", "0 to 1"),
            ("base_temperature", "-1", "0 or more"),
            ("nudging_temperature", "nan", "0 or more"),
            ("base_top_p", "0", "above 0"),
            ("nudging_top_p", "1.5", "at most 1"),
            ("exp_prefix", "a/b", "no slashes"),
            ("data_dir", "no such folder", "not a folder"),
            ("nudging_host", "localhost:8001/v1", "http://"),
            ("nudging_api_key_env", "NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE is not set"),
            # What argparse itself refuses is said in the same form.
            ("num_samples", "many", "invalid int value: 'many'"),
            ("top_prob_thres", "high", "invalid float value: 'high'"),
            ("no_such_option", "1", "unrecognized arguments"),
        ],
    )
    def test_bad_value_is_named(self, capsys, option, value, says):
        message = error_of(capsys, *shlex.split(RUNS["nudging_only"]), f"--{option}", value)
        assert f"--{option}" in message and says in message

    @pytest.mark.parametrize(
        "run, option",
        [
            ("base_only", "base_model"),
            ("base_only", "base_host"),
            ("nudging_only", "nudging_model"),
            ("nudging_only", "nudging_host"),
            ("nudging", "base_model"),
            ("nudging", "base_host"),
            ("nudging", "nudging_model"),
            ("nudging", "nudging_host"),
            ("ensemble", "base_host"),
            ("ensemble", "proxy_chat_model"),
            ("ensemble", "proxy_chat_host"),
            ("proxy_tuning", "proxy_chat_host"),
            ("proxy_tuning", "proxy_base_model"),
            ("proxy_tuning", "proxy_base_host"),
        ],
    )
    def test_what_an_experiment_needs(self, capsys, run, option):
        # A hub id does without a host.
        words = shlex.split(RUNS[run].replace("llama/", ""))
        at = words.index(f"--{option}")
        assert f"needs --{option}" in error_of(capsys, *words[:at], *words[at + 2 :])

    def test_transformers_models_need_no_host(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        for name in ("google/gemma-3-270m", str(tmp_path)):
            settings = parse_settings(["--exp", "base_only", "--base_model", name, "--dtype", "bfloat16"])
            assert settings.models["base"].in_process and settings.decisive["dtype"] == "bfloat16"
        assert not parse("nudging").models["base"].in_process and "dtype" not in parse("nudging").decisive
        (tmp_path / "config.json").unlink()
        with pytest.raises(SettingsError, match="needs --base_host"):
            RunSettings(exp="base_only", base_model=str(tmp_path))

    def test_settings_made_in_code_are_checked_too(self):
        with pytest.raises(SettingsError, match="--nudging_model"):
            RunSettings()

    @pytest.mark.parametrize("template", ["auto", *INSTRUCT_TEMPLATES, "tokenizer", "tokenizer:some/model"])
    def test_templates(self, template):
        settings = parse("proxy_tuning", "--base_template", template, "--nudging_template", "olmo")
        assert {role: model.template for role, model in settings.models.items()} == {
            "base": template,
            "proxy_chat": "olmo",
            "proxy_base": template,
        }

    def test_api_keys(self, monkeypatch):
        monkeypatch.setenv("MY_KEY", "secret")
        settings = parse("proxy_tuning", "--proxy_api_key_env", "MY_KEY")
        assert [model.api_key_env for model in settings.models.values()] == [None, "MY_KEY", "MY_KEY"]


@pytest.mark.parametrize(
    "run, roles, logprobs",
    [
        ("base_only", ("base",), [None]),
        ("nudging_only", ("nudging",), [None]),
        ("nudging", ("base", "nudging"), [1, None]),
        ("ensemble", ("base", "proxy_chat"), [5, 5]),
        ("proxy_tuning", ("base", "proxy_chat", "proxy_base"), [100, 100, 100]),
    ],
)
def test_models_of_an_experiment(run, roles, logprobs):
    settings = parse(run)
    assert settings.roles == tuple(settings.models) == roles
    assert [model.logprobs for model in settings.models.values()] == logprobs
    assert all(model.name.startswith("llama/") for model in settings.models.values())


def test_nudging_settings_are_those_of_the_run():
    given = {
        "top_prob_thres": 0.5,
        "completion_token_num": 8,
        "completion_token_num_nudging": 4,
        "max_token_total": 99,
        "base_temperature": 0.7,
        "base_top_p": 0.8,
        "nudging_temperature": 0.6,
    }
    settings = parse("nudging", *(f"--{name}={value}" for name, value in given.items()))
    assert settings.nudging_settings == NudgingSettings(**given)


class TestResults:
    @pytest.mark.parametrize(
        "run, more, name",
        [
            ("base_only", "", "split_test_Llama-2-70b-hf_None_samples"),
            ("nudging_only", "--num_samples 100", "split_test_Llama-2-7b-chat-hf_100_samples"),
            (
                "nudging",
                "--top_prob_thres 0.40 --num_samples 100",
                "split_test_top_prob_0.4_thres_nudging_Llama-2-70b-hf_Llama-2-7b-chat-hf_100_samples",
            ),
            ("ensemble", "", "split_test_ensemble_Llama-2-70b-hf_Llama-2-7b-chat-hf_None_samples"),
            ("proxy_tuning", "", "split_test_proxy_tuning_Llama-2-70b-hf_Llama-2-7b-chat-hf_None_samples"),
            ("base_only", "--exp_prefix mine", "split_test_mine_Llama-2-70b-hf_None_samples"),
            ("base_only", "--exp_prefix mine_", "split_test_mine_Llama-2-70b-hf_None_samples"),
            ("base_only", "--split train", "split_train_Llama-2-70b-hf_None_samples"),
            ("base_only", "--dataset_name csqa", "split_validation_Llama-2-70b-hf_None_samples"),
            ("base_only", "--base_model /models/base/", "split_test_base_None_samples"),
            ("base_only", "--base_model base", "split_test_base_None_samples"),
        ],
    )
    def test_name(self, run, more, name):
        assert parse(run, *more.split()).result_name == name

    def test_folder(self):
        assert parse("nudging").result_folder == Path("outputs/gsm8k")
        assert parse("nudging", "--output_dir", "there", "--dataset_name", "date").result_folder == Path("there/date")


class TestDecisive:
    @pytest.mark.parametrize(
        "run, options",
        [
            *((run, "--max_token_total 9") for run in RUNS),
            *((run, "--num_samples 9") for run in RUNS),
            *((run, "--dataset_name svamp") for run in RUNS),
            *((run, "--split train") for run in RUNS),
            *((run, "--end_tokens <|fin|>") for run in RUNS),
            *((run, "--base_model x") for run in RUNS if run != "nudging_only"),
            *((run, "--base_temperature 1") for run in RUNS if run != "nudging_only"),
            *((run, "--base_template gemma") for run in RUNS if run != "nudging_only"),
            *((run, "--nudging_template gemma") for run in RUNS if run != "base_only"),
            *((run, "--nudging_temperature 1") for run in ("nudging_only", "nudging")),
            *((run, "--nudging_model x") for run in ("nudging_only", "nudging")),
            *((run, "--base_top_p 0.5") for run in ("base_only", "nudging")),
            ("nudging_only", "--nudging_top_p 0.5"),
            ("nudging", "--top_prob_thres 0.5"),
            ("nudging", "--completion_token_num 9"),
            ("nudging", "--completion_token_num_nudging 9"),
            ("ensemble", "--proxy_chat_model x"),
            ("proxy_tuning", "--proxy_chat_model x"),
            ("proxy_tuning", "--proxy_base_model x"),
        ],
    )
    def test_what_answers_depend_on(self, run, options):
        assert parse(run, *options.split()).decisive != parse(run).decisive

    @pytest.mark.parametrize("run", RUNS)
    def test_what_they_do_not_depend_on(self, run):
        options = "--num_threads 3 --request_timeout 5 --max_retries 1 --judge none --judge_model j"
        files = "--output_dir there --exp_prefix p --rerun --print_intermediate_output"
        hosts = [f"--{role}_host=http://other:1/v1" for role in ("base", "nudging", "proxy_chat", "proxy_base")]
        changed = parse(run, *options.split(), *files.split(), *hosts)
        assert changed.decisive == parse(run).decisive

    @pytest.mark.parametrize(
        "run, options",
        [
            ("base_only", "--nudging_model x --nudging_temperature 1 --top_prob_thres 0.5 --nudging_template gemma"),
            ("nudging_only", "--base_model x --base_temperature 1 --base_top_p 0.5 --base_template gemma"),
            ("nudging", "--nudging_top_p 0.5 --proxy_chat_model x"),  # the nudging calls have no top_p
            ("ensemble", "--proxy_base_model x --nudging_model x --nudging_temperature 1 --base_top_p 0.5"),
        ],
    )
    def test_nor_on_what_the_experiment_does_not_use(self, run, options):
        assert parse(run, *options.split()).decisive == parse(run).decisive

    def test_split_is_the_one_used(self):
        assert parse("base_only", "--split", "test").decisive == parse("base_only").decisive

    def test_the_two_baselines_differ(self):
        words = RUNS["proxy_tuning"].replace("proxy_tuning", "ensemble", 1)
        assert parse(words).decisive["baseline_method"] != parse("proxy_tuning").decisive["baseline_method"]
