"""--seed: which seeds answers have, that these draw them again, and that no two of a question draw the same numbers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from misbehaving_server import MisbehavingServer, as_it_is
from runs import final_records, gsm8k_rows, run_api, write_rows
from whole_runs import plain_error

from baselines import average_ensemble
from experiment.seeds import APART, MOST_ANSWERS, ROLES, OwnNumbers, seed_of
from language_models.interface import SEEDS, Completion, SamplingParams, Usage

IDS = st.one_of(st.integers(0, 10**6), st.text(max_size=5))


@settings(max_examples=50)
@given(st.integers(0, 2**70), IDS, st.lists(st.integers(0, MOST_ANSWERS - 1), min_size=2, max_size=2, unique=True))
def test_the_calls_of_two_answers_have_no_seed_in_common(seed, question, numbers):
    """As long as an answer has fewer than a million characters."""
    first = {
        (seed_of(seed, question, number) + place * APART) % SEEDS for number in numbers for place in range(len(ROLES))
    }
    assert len(first) == 2 * len(ROLES)
    ordered = sorted(first)
    gaps = [b - a for a, b in zip(ordered, [*ordered[1:], ordered[0] + SEEDS], strict=True)]
    assert min(gaps) >= APART - 1  # SEEDS is one less than a multiple of it


@given(st.integers(0, 2**70), st.lists(IDS, min_size=2, max_size=8, unique_by=repr))
def test_questions_have_seeds_of_their_own(seed, questions):
    assert len({seed_of(seed, question, 0) for question in questions}) == len(questions)
    assert seed_of(seed, questions[0], 0) != seed_of(seed + 1, questions[0], 0)


class Told:
    """A model that notes with which seeds it is asked."""

    name, runs_ahead = "told", False

    def __init__(self):
        self.seeds = []

    def complete(self, prompt, params):
        self.seeds.append(params.seed)
        return Completion("", (), "stop", Usage())


@pytest.mark.parametrize("role", ROLES)
def test_each_role_draws_numbers_of_its_own_and_none_where_nothing_is_drawn(role):
    told = Told()
    model = OwnNumbers(told, role)
    for temperature, seed in ((1.0, 5), (0.0, 5), (1.0, None)):
        model.complete("", SamplingParams(1, temperature, seed=seed))
    assert told.seeds == [5 + ROLES.index(role) * APART, None, None]


def test_a_baseline_hands_its_seed_to_all_models():
    base, chat = Told(), Told()
    average_ensemble(base, chat, "p", "q", temperature=1.0, seed=9)
    assert base.seeds == chat.seeds == [9]


def options(host: str, data, output) -> list:
    models = ["--base_model", "base-lm", "--base_host", host, "--nudging_model", "llama-2-chat", "--nudging_host", host]
    more = ["--base_temperature", 1.0, "--max_token_total", 24, "--data_dir", data, "--output_dir", output]
    return ["--exp", "nudging", *models, *more]


def test_requests_that_draw_carry_seeds_and_others_do_not(server, tmp_path):
    front = MisbehavingServer(server, as_it_is)
    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(2))
    said = run_api(*options(front.host, data, tmp_path / "out"), "--answers", 3, "--seed", 4, "--calls", "published")
    front.stop()
    assert said.returncode == 0, said.stderr
    records = json.loads(next(tmp_path.rglob("*_answers.json")).read_text())
    allowed = set()
    for record in records:
        first = seed_of(4, record["id"], record["answer_number"] - 1)
        before = len(record["full_prefix_base"])
        asked = [e.asked for e in front.requests if e.asked.get("prompt", "").startswith(record["full_prefix_base"])]
        mine = [
            body
            for body in asked
            if body["model"] == "base-lm" and body["seed"] == (first + len(body["prompt"]) - before) % SEEDS
        ]
        assert mine and mine[0]["temperature"] == 1.0
        allowed |= {id(body) for body in mine}
    sent = [exchange.asked for exchange in front.requests if "prompt" in exchange.asked]
    drawn = [body for body in sent if "seed" in body]
    probes = [body for body in drawn if body["seed"] == 4]
    assert probes and {id(body) for body in drawn if body["seed"] != 4} == allowed
    assert not [body for body in sent if body["temperature"] == 0 and "seed" in body]
    assert len({record["raw_answer"] for record in records}) == 6


def test_the_default_run_has_no_seeds(server, tmp_path):
    front = MisbehavingServer(server, as_it_is)
    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(1))
    assert run_api(*options(front.host, data, tmp_path / "out")).returncode == 0
    front.stop()
    assert not any("seed" in exchange.asked for exchange in front.requests if isinstance(exchange.asked, dict))
    (record,) = final_records(tmp_path / "out")
    assert "answer_number" not in record


@pytest.mark.parametrize("told", ["seed is not supported", "extra inputs are not permitted: body.seed"])
def test_a_server_that_refuses_seeds_is_told_at_once(told, reply_server, tmp_path):
    def reply(path, body):
        if body is None:
            return 200, {}, {"object": "list", "data": []}
        if "seed" in body:
            return 400, {}, {"error": {"message": told}}
        return 500, {}, {"error": {"message": "not reached"}}

    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(1))
    line = plain_error(run_api(*options(reply_server(reply).host, data, tmp_path / "out"), "--seed", 4))
    assert "--base_host" in line and "refuses seed 4" in line and line.rstrip().endswith("leave out --seed")
