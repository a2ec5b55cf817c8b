"""Scripts of reward-guided decoding with tiny models, and everything once with real weights."""

import json
import os
import subprocess
import sys

import needs
import pytest
from runs import REPOSITORY
from waiting import HANG

torch = needs.module("torch")

import collect_model_outs  # noqa: E402
import measure_reward  # noqa: E402
from command.errors import OptionError  # noqa: E402
from demo import fetch  # noqa: E402
from pad.config import read_configs  # noqa: E402
from pad.fit_scorer import read_sentences  # noqa: E402


def run(*words: object, **environment: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    clean |= {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment}
    command = [str(word) for word in words]
    return subprocess.run(command, env=clean, capture_output=True, text=True, cwd=REPOSITORY, timeout=HANG)


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("data_set", ["psoups", "steers"])
def test_the_experiments_of_a_data_set(data_set, tiny, scorers, tmp_path, monkeypatch):
    """The base LM and all seven presets, then five scores of each in one command; the scripts' commands are run in this process."""
    split = {"psoups": "koala_eval_50", "steers": "validation"}[data_set]
    (tmp_path / "d" / data_set).mkdir(parents=True)
    rows = [{"prompt": prompt} for prompt in ("Who?", "Who?", "Why so?", "Why so?")]
    (tmp_path / f"d/{data_set}/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorder = tmp_path / "recorder"
    recorder.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >>{tmp_path}/words; printf "\\n\\0" >>{tmp_path}/words\n')
    recorder.chmod(0o755)
    more = f"--data_dir {tmp_path}/d --max_new_token 6 --limit 2"
    models = {"LLM": tiny / "lm", "RM": tiny / "rm", "HELPFUL": scorers / "gpt2", "HARMLESS": scorers / "long_gpt2"}
    models |= {"HUMOR": scorers / "humor", "ARMORM": scorers / "armorm"}
    settings = {name: str(folder) for name, folder in models.items()}
    script = REPOSITORY / f"scripts/pad_{data_set}.sh"
    finished = run(script, **settings, OUT=str(tmp_path / "out"), MORE=more, PYTHON=str(recorder))
    assert finished.returncode == 0, finished.stderr
    commands = [part.split("\0")[:-1] for part in (tmp_path / "words").read_text().split("\n\0")[:-1]]
    monkeypatch.chdir(REPOSITORY)
    for program, *words in commands:
        if program == "collect_model_outs.py":
            assert collect_model_outs.main(words) == 0
            continue
        assert measure_reward.main(words) == 0
    outputs = sorted(path.name for path in (tmp_path / "out").glob("*_0.jsonl"))
    assert len(outputs) == 8 and f"{data_set}_vanilla_0.jsonl" in outputs
    for name in outputs:
        [first, second] = rows_of(tmp_path / "out" / name)
        preset = name.removeprefix(f"{data_set}_").removesuffix("_0.jsonl")
        if preset != "vanilla":
            [config] = read_configs(REPOSITORY / f"configs/{data_set}_llama3SFT_{preset}.config", print)
            assert first["config"] == config.written() and "[Principles]" in first["sys_prompt"]
            dimensions = preset.replace("hhh", "harmlesshelpfulnesshumor")
            assert first["sys_prompt"].split("[Principles] ")[1].split(" [")[0].replace(" and ", "") == dimensions
        expected = ("Who?", "Who?") if data_set == "psoups" else ("Who?", "Why so?")
        assert (first["instruction"], second["instruction"]) == expected
    scored = json.loads((tmp_path / f"out/scores/{data_set}.json").read_text())
    assert len({(one["rm"], one["dimension"]) for one in scored}) == 5 and len(scored) == 35
    assert {one["preference"] for one in scored} >= {"humor", "harmless and helpfulness and humor"}
    assert run(script, "scores").returncode == 2


@pytest.mark.parametrize("code, goes_on", [(1, True), (2, False)])
def test_skipped_prompts_do_not_end_the_experiments_and_errors_do(code, goes_on, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/words\n[ "$1" = measure_reward.py ] || exit {code}\n')
    python.chmod(0o755)
    finished = run(REPOSITORY / "scripts/pad_psoups.sh", PYTHON=str(python))
    words = (tmp_path / "words").read_text().split()
    assert (finished.returncode == 0) == goes_on
    assert words == ["collect_model_outs.py"] * 8 + ["measure_reward.py"] if goes_on else words == words[:1]


@pytest.fixture(scope="module")
def aligned() -> str:
    """SmolLM2-135M-Instruct, as the demo's models are fetched and converted."""
    assert fetch.main(["--transformers", "demo-aligned"]) == 0
    return "demo-aligned"


@pytest.fixture(scope="module")
def joy(aligned, tmp_path_factory) -> str:
    """A reward model for joy, fitted on sixteen sentences."""
    folder = tmp_path_factory.mktemp("joy") / "joy"
    finished = run(sys.executable, "scripts/fit_scorer.py", aligned, "scripts/demo_data/joy.json", folder)
    assert finished.returncode == 0, finished.stderr
    scores = [float(score) for score in finished.stdout.rpartition(": ")[2].split(", ")]
    assert min(scores[:8]) > max(scores[8:])
    return str(folder)


def in_a_process(program: str, words: list[str]) -> str:
    """Run a command as a user does; what it prints."""
    finished = run(sys.executable, program, *words)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture
def in_this_process(monkeypatch, capsys):
    """Run a command where its modules are loaded already; what it prints."""
    monkeypatch.chdir(REPOSITORY)

    def run_it(program: str, words: list[str]) -> str:
        capsys.readouterr()
        assert {"collect_model_outs.py": collect_model_outs, "measure_reward.py": measure_reward}[program].main(
            words
        ) == 0
        return capsys.readouterr().out

    return run_it


@pytest.mark.long
@pytest.mark.slow
class TestRealWeights:
    """Both commands on more than random weights: guidance moves real answers where it should."""

    def collected(self, run_it, folder, aligned, *more: str) -> list[list[dict]]:
        (folder / "x.config").write_text('{"rm_weight": 0, "topk": 10}\n{"rm_weight": 3, "topk": 10}')
        words = ["--llm", aligned, "--config", f"{folder}/x.config", "--out_file", f"{folder}/out/x", *more]
        words += ["--dataset", "scripts/demo_data/small_talk.json", "--dtype", "float32"]
        run_it("collect_model_outs.py", [*words, "--limit", "3", "--batch_size", "3", "--max_new_token", "14"])
        return [rows_of(folder / f"out/x_{i}.jsonl") for i in range(2)]

    def measured(self, run_it, folder, rm: str) -> dict:
        files = ["--out_file", f"{folder}/out/x_1.jsonl", "--baseline", f"{folder}/out/x_0.jsonl"]
        shown = run_it("measure_reward.py", [*files, "--rm", rm, "--metrics"])
        return json.loads(shown.splitlines()[-1])

    def test_args_raises_the_reward_that_guides_it(self, in_this_process, aligned, joy, tmp_path):
        plain, guided = self.collected(in_a_process, tmp_path, aligned, "--rm", joy, "--chat_template", "on")
        print(*(f"{p['result']!r} -> {g['result']!r}" for p, g in zip(plain, guided, strict=True)), sep="\n")
        assert all(len(row["result"].split()) > 5 for row in guided)
        figures = self.measured(in_this_process, tmp_path, joy)
        assert figures["paired"]["wins"] >= 2 and figures["paired"]["difference"]["mean"] > 0

    def test_pad_with_a_preference_text_writes_more_of_it(self, in_this_process, aligned, joy, tmp_path):
        """The reward model is the base LM itself, with the preference text against without."""
        preference = ["--sys_prompt", "Answer with great enthusiasm and joy. "]
        models = [aligned, "--rm", aligned, "--ref", "self"]
        plain, guided = self.collected(in_this_process, tmp_path, *models, *preference)
        print(*(f"{p['result']!r} -> {g['result']!r}" for p, g in zip(plain, guided, strict=True)), sep="\n")
        assert [row["result"] for row in plain] != [row["result"] for row in guided]
        joyful = ("joy", "thrill", "excit", "delight", "happ", "!", "love", "wonder", "enthus")

        def joys(rows: list[dict]) -> int:
            return sum(row["result"].lower().count(word) for row in rows for word in joyful)

        assert joys(guided) > joys(plain)
        assert self.measured(in_this_process, tmp_path, joy)["n"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"positive": ["a"]}', "must hold a JSON object with the keys"),
        ('{"positive": [], "negative": ["a"]}', "must hold a JSON object with the keys"),
        ("[1]", "must hold a JSON object with the keys"),
        ("{,", "cannot be read (not JSON: "),
        (None, "cannot be read ([Errno 2] No such file"),
    ],
)
def test_sentences_that_are_none(tmp_path, content, said):
    path = tmp_path / "sentences.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError) as refused:
        read_sentences(path)
    assert str(refused.value).startswith(f"{path} {said}")
