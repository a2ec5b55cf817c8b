"""Criteria and mixtures as run_api.py asks servers for them: the same by published calls, by streams, and without servers."""

import json
import math

import pytest
from runs import one, run_api
from scripted_lm_server import EOS, ScriptedLM

from language_models.interface import Completion, Token, Usage
from nudging import NudgingSettings, nudge

SEED = 2  # that of the fixture `server`
HOW = {
    "token_prob": ("--threshold", "0.4"),
    "confidence_bet": ("--threshold", "0.2"),
    "entropy": ("--threshold", "1.2"),
    "margin": ("--threshold", "0.3"),
    "random": ("--threshold", "0.3"),
    "always": (),
    "never": (),
    "top_prob": ("--top_prob_thres", "0.4", "--blend", "auto"),
}


class Ranked:
    """The scripted server's model, with whole top lists."""

    runs_ahead = True

    def __init__(self, name: str):
        self.name, self.model = name, ScriptedLM(SEED, name)

    def complete(self, prompt, params):
        tokens = []
        for _ in range(params.max_tokens):
            text = "".join(token.text for token in tokens)
            top = [
                ("" if t == EOS else t, p) for t, p in self.model.ranked(prompt + text, max(1, params.logprobs or 1))
            ]
            tokens.append(Token(top[0][0], tuple(top)))
            if not top[0][0]:
                break
        text = "".join(token.text for token in tokens)
        return Completion(text, tuple(tokens), "length" if tokens[-1].text else "stop", Usage(requests=1))


@pytest.mark.parametrize("criterion", HOW)
def test_the_same_answers(criterion, server, data_dir, tmp_path):
    answers = {}
    for calls in ("published", "streamed"):
        out = tmp_path / calls
        finished = run_api(
            *("--exp", "nudging", "--base_model", "base-lm", "--base_host", server.host, "--num_samples", "3"),
            *("--nudging_model", "llama-2-chat", "--nudging_host", server.host, "--max_token_total", "48"),
            *("--data_dir", data_dir, "--output_dir", out, "--calls", calls, "--criterion", criterion, *HOW[criterion]),
        )
        assert finished.returncode == 0, finished.stderr
        records = json.loads(one(out, "*_samples.json").read_text())
        answers[calls] = [(record["all_completions"], record["stop_reason"]) for record in records]
        prompts = [(record["full_prefix_base"], record["full_prefix_nudging"]) for record in records]
        told = json.loads(one(out, "*.run.json").read_text())["settings"]
    assert answers["published"] == answers["streamed"]
    number = float(HOW[criterion][1]) if HOW[criterion] else None
    settings = NudgingSettings(
        threshold=number, max_token_total=48, blend="auto" if "--blend" in HOW[criterion] else None
    )
    pair = Ranked("base-lm"), Ranked("llama-2-chat")
    expected = [nudge(*pair, *prompt, settings, criterion=criterion) for prompt in prompts]
    assert answers["published"] == [(result.pieces, result.stop_reason) for result in expected]
    if criterion == "top_prob":
        assert told["blend"] == "auto" and told["top_prob_thres"] == 0.4 and "criterion" not in told
        assert one(tmp_path / "published", "*.txt").name.startswith("split_test_top_prob_0.4_thres_blend_auto_nudging_")
    else:
        assert (told["criterion"], told["threshold"]) == (criterion, number) and "top_prob_thres" not in told
        name = criterion if number is None else f"{criterion}_{number}"
        assert one(tmp_path / "published", "*.txt").name.startswith(f"split_test_{name}_thres_nudging_")
    assert all(math.isfinite(len(answer)) for answer, _ in answers["published"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--criterion", "entropi"), "--criterion has no choice 'entropi'; choose one of: top_prob, token_prob"),
        (("--criterion", "entropy", "--threshold", "9"), "--threshold of --criterion entropy is the entropy of"),
        (("--criterion", "always", "--threshold", "0.3"), "--criterion always has no number; leave it out"),
        (("--criterion", "margin", "--top_prob_thres", "0.2"), "that of margin is --threshold"),
        (("--threshold", "0.2", "--top_prob_thres", "0.4"), "are the same number: give one"),
        (("--threshold", "nan"), "--threshold of --criterion top_prob is the base model's top-1 probability, 0 to 1"),
        (("--blend", "much"), "--blend is auto, or how much the nudging model counts, 0 to 1; it is 'much'"),
        (("--blend", "1.5"), "--blend is auto"),
        (("--exp", "base_only", "--criterion", "margin"), "--criterion is of --exp nudging"),
        (("--exp", "base_only", "--blend", "auto"), "--blend is of --exp nudging; leave it out of --exp base_only"),
    ],
)
def test_what_cannot_be(options, words, server, data_dir, tmp_path):
    finished = run_api(
        *("--exp", "nudging", "--base_model", "base-lm", "--base_host", server.host, "--dry_run"),
        *("--nudging_model", "llama-2-chat", "--nudging_host", server.host, "--data_dir", data_dir, *options),
    )
    assert finished.returncode == 2 and words in finished.stderr and "Traceback" not in finished.stderr


def test_both_names_of_the_papers_number_are_one(server, data_dir, tmp_path):
    names = []
    for option in ("--threshold", "--top_prob_thres"):
        finished = run_api(
            *("--exp", "nudging", "--base_model", "base-lm", "--base_host", server.host, "--num_samples", "2"),
            *("--nudging_model", "llama-2-chat", "--nudging_host", server.host, "--max_token_total", "20"),
            *("--data_dir", data_dir, "--output_dir", tmp_path / option, option, "0.45"),
        )
        assert finished.returncode == 0, finished.stderr
        names.append(one(tmp_path / option, "*.txt").name)
        told = json.loads(one(tmp_path / option, "*.run.json").read_text())["settings"]
        assert told["top_prob_thres"] == 0.45 and not {"criterion", "threshold", "blend"} & set(told)
    assert names[0] == names[1]


def test_a_server_with_too_few_log_probabilities_is_told(start_server, data_dir, tmp_path):
    few = start_server("--seed", "2", "--max_logprobs", "5")
    finished = run_api(
        *("--exp", "nudging", "--base_model", "base-lm", "--base_host", few.host, "--criterion", "entropy"),
        *("--nudging_model", "llama-2-chat", "--nudging_host", few.host),
        *("--data_dir", data_dir, "--output_dir", tmp_path),
    )
    assert finished.returncode == 2 and "log-probabilities" in finished.stderr and "20" in finished.stderr
