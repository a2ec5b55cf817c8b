"""Options of models that run_api.py and other commands load themselves: --engine, --device_map and a device for each role."""

import contextlib
import json
import shlex
from types import SimpleNamespace

import needs
import pytest
import sweeps
from test_settings import NUDGING, RUNS, error_of, parse

import eval_utils
import measure_reward
from cluster.sweep_config import ConfigError, read_sweep
from datasets_loader import Example
from experiment import connect
from experiment.command_line import parse_settings
from experiment.connect import local_models, longest_prompts
from experiment.result_files import ResultFiles
from experiment.run import Run
from experiment.settings import RunSettings

OURS = "--base_model a/base --nudging_model a/chat"  # hub ids without hosts are loaded
NUDGED = f"--exp nudging {OURS} --nudging_template plain"


@pytest.mark.parametrize(
    "command, more, says",
    [
        ("nudging", "--engine fast", "--engine has no choice 'fast'; choose one of: auto, graphs, packed"),
        ("nudging", "--device_map balanced", "--device_map has no choice 'balanced'; choose one of: none, auto"),
        ("nudging", "--base_device cuda:1", "--base_model llama/Llama-2-70b-hf is behind a server: leave the option"),
        ("nudging", "--device_map auto", "--device_map auto is for a base model that this process loads"),
        ("proxy_tuning", "--proxy_base_device cpu", "--proxy_base_device is of a model that this process loads"),
        (NUDGED.replace("a/base", "demo-base"), "--base_device cpu", "--base_model demo-base is a GGUF file"),
        (NUDGED, "--device_map auto --base_device cuda:1", "leave out --base_device, or this"),
        (NUDGED, "--device_map auto --engine graphs", "--engine graphs needs each model on one device"),
    ],
)
def test_what_nobody_would_follow_is_refused(capsys, command, more, says):
    message = error_of(capsys, *shlex.split(f"{RUNS.get(command, command)} {more}"))
    assert says in message and message.count("\n") == 1


@pytest.mark.parametrize(
    "command, more",
    [
        ("nudging", "--engine auto --device_map none"),
        ("nudging", "--engine packed --judge_model a/judge"),  # the judge follows it
        (f"--exp nudging --base_model a/base {NUDGING}", "--engine graphs --device_map auto --engine auto"),
        (f"--exp nudging --base_model a/base {NUDGING}", "--engine graphs"),  # one of them does
        # Sweeps give the same options to all their pairs and experiments: those that this one has no model for are not in the way.
        ("nudging", "--engine graphs --device cuda --dtype bfloat16"),
        ("nudging_only", "--base_device cuda:1 --device_map auto"),
    ],
)
def test_what_somebody_follows_is_taken(command, more):
    parse(command, *shlex.split(more))


def test_devices_of_the_roles():
    settings = parse_settings(shlex.split(f"{NUDGED} --device cuda:1 --base_device cuda:0"))
    assert {role: model.device for role, model in settings.models.items()} == {"base": "cuda:0", "nudging": "cuda:1"}
    settings = parse_settings(shlex.split(f"{NUDGED} --device_map auto"))
    assert [(m.device, m.device_map) for m in settings.models.values()] == [("auto", "auto"), ("auto", "none")]
    proxies = (
        "--exp baseline --baseline_method proxy_tuning --base_model a/b --proxy_chat_model a/c --proxy_base_model a/d"
    )
    more = "--nudging_template plain --proxy_chat_device cuda:1 --proxy_base_device cpu"
    settings = parse_settings(shlex.split(f"{proxies} {more}"))
    assert [model.device for model in settings.models.values()] == ["auto", "cuda:1", "cpu"]


def test_a_run_may_go_on_with_another_engine_and_on_another_device():
    """In float32 the text is the same."""
    one = parse_settings(shlex.split(f"{NUDGED} --dtype float32"))
    other = parse_settings(shlex.split(f"{NUDGED} --dtype float32 --engine packed --base_device cpu --device cuda:1"))
    assert one.decisive == other.decisive and other.differing(json.loads(json.dumps(one.decisive))) == []
    assert one.decisive["dtype"] == "float32"


def test_the_command_that_scores_later(tmp_path):
    settings = parse_settings(
        shlex.split(f"{NUDGED} --engine packed --judge_model a/judge --dataset_name date --output_dir {tmp_path}")
    )
    run = Run(settings, ResultFiles(tmp_path, "x"), [], {})
    assert run.scoring_command.endswith("--judge_model a/judge --engine packed")


@pytest.mark.parametrize("judge", [[], ["--judge_host", "http://localhost:1/v1", "--judge_model", "a/judge"]])
def test_commands_with_no_judge_of_their_own_refuse_engines(capsys, tmp_path, judge):
    (tmp_path / "answers.json").write_text(json.dumps([{"prompt": "p", "response": "r"}]))
    file = str(tmp_path / "answers.json")
    assert eval_utils.main([file, "--dataset_name", "gsm8k", "--engine", "packed", *judge]) == 2
    assert measure_reward.main(["--out_file", file, "--metrics", "--baseline", file, "--engine", "packed", *judge]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all("--engine packed is of a judge that this process loads" in line for line in errors)


class TestSweeps:
    def test_engines_are_options_like_others(self, tmp_path):
        pair = '[[pairs]]\nname = "ours"\nbase_model = "a/base"\nbase_host = ""\nnudging_model = "a/chat"\nnudging_host = ""\n'
        top = 'experiments = ["base_only", "nudging_only", "nudging"]\n[options]\nnudging_template = "plain"\n'
        options = 'engine = "graphs"\nnudging_device = "cuda:1"\n'
        tasks = read_sweep(sweeps.write(tmp_path, top + options + pair)).tasks
        assert [(task.settings.engine, task.settings.nudging_device) for task in tasks] == [("graphs", "cuda:1")] * 3

    def test_pairs_behind_servers_are_not_in_the_way(self, tmp_path):
        tasks = read_sweep(sweeps.write(tmp_path, '[options]\nengine = "graphs"\ndevice = "cuda"\n')).tasks
        assert tasks and all(task.settings.engine == "graphs" for task in tasks)

    @pytest.mark.parametrize("options", ['engine = "fast"', 'base_device = "cpu"'])
    def test_they_are_refused_in_the_same_words(self, tmp_path, options):
        with pytest.raises(ConfigError, match=r"pair small: --(engine|base_device) .*(leave|choose)"):
            read_sweep(sweeps.write(tmp_path, f"[options]\n{options}\n"))


class Loaded:
    """A model as LocalModel.load gives one."""

    notes, warnings, in_words, cost_in_words = ["a note"], ["a warning"], "a model", "what it cost"

    def __init__(self, name: str, **how):
        self.name, self.how, self.first = name, how, None

    def shared(self, first: str):
        other = Loaded(self.name, **self.how)
        other.first = first
        return other


@pytest.fixture
def load(monkeypatch, capsys):
    """The models of a run by role, on a machine with two GPUs, and the lines that were said."""
    needs.module("torch")
    import torch

    from language_models.local import model

    monkeypatch.setattr(model, "LocalModel", SimpleNamespace(load=Loaded))
    monkeypatch.setattr(connect, "pick_device", lambda name: torch.device("cuda" if name == "auto" else name))
    monkeypatch.setattr(connect, "gpus", lambda: [torch.device("cuda:0"), torch.device("cuda:1")])

    def loaded(command: str) -> tuple[dict[str, Loaded], str]:
        settings = parse_settings(shlex.split(f"{command} --num_threads 4"))
        with contextlib.ExitStack() as servers:
            found = local_models(settings, list(settings.models.values()), servers, ["a prompt"])
        return found, capsys.readouterr().err

    return loaded


class TestLoading:
    def test_a_pair_on_two_gpus(self, load):
        found, said = load(
            f"{NUDGED} --base_device cuda:0 --nudging_device cuda:1 --engine graphs --max_token_total 100"
        )
        base, nudging = found["base"].how, found["nudging"].how
        assert (base["device"], nudging["device"]) == ("cuda:0", "cuda:1")
        assert base["drafter"] is found["nudging"] and nudging["drafter"] is None
        assert (base["samples"], nudging["samples"]) == (4, 8) and base["engine"] == nudging["engine"] == "graphs"
        assert base["prompts"] == ["a prompt"] and base["answer_tokens"] == 141
        assert said.count("loaded a model") == said.count(": a note") == said.count("warning: a warning") == 2
        assert said.count("what it cost") == 2

    def test_a_base_model_over_all_gpus(self, load):
        found, _ = load(f"{NUDGED} --device_map auto --nudging_device cuda:1")
        assert [found[role].how["device_map"] for role in ("base", "nudging")] == ["auto", "none"]

    ONE = "--exp nudging --base_model a/one --nudging_model a/one --nudging_template plain"

    @pytest.mark.parametrize("where", ["", "--device cuda:0", "--base_device cuda --nudging_device cuda:0"])
    def test_both_models_as_one(self, load, where):
        found, said = load(f"{self.ONE} {where}")
        assert said.count("loaded ") == said.count("what it cost") == 1
        assert found["nudging"].first is None and found["base"].first == "nudging"
        assert found["nudging"].how["samples"] == 8 and found["nudging"].how["drafter"] is None

    @pytest.mark.parametrize("where", ["--base_device cuda:1", "--device_map auto"])
    def test_one_model_in_two_places_is_loaded_twice(self, load, where):
        found, said = load(f"{self.ONE} {where}")
        assert said.count("loaded ") == 2 and found["base"].how["drafter"] is found["nudging"]

    def test_three_roles_of_one_model(self, load):
        command = "--exp baseline --baseline_method proxy_tuning --nudging_template plain --base_model a/one"
        found, said = load(f"{command} --proxy_chat_model a/one --proxy_base_model a/one")
        assert said.count("loaded ") == 1 and found["proxy_chat"].how["samples"] == 12
        assert [found[role].first for role in ("base", "proxy_base")] == ["proxy_chat"] * 2


def test_the_longest_prompts_are_found_among_many():
    lengths = [3, 1, 4, 1, 5, 9, 2, 6] * 30 + [10]
    examples = [Example(0, "x" * n, "") for n in lengths]
    data_set = SimpleNamespace(system_prompt="S", question_prefix="")
    builders = {"base": lambda system, user: user, "nudging": lambda system, user: f"<{user}>"}
    assert longest_prompts(data_set, examples, builders) == ["x" * 10, "<" + "x" * 10 + ">"]
    assert longest_prompts(data_set, [], builders) == []


def test_defaults():
    assert RunSettings.engine == "auto" and RunSettings.device_map == "none" and RunSettings.base_device is None
