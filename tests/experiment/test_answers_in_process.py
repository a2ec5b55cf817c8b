"""Several answers of models in this process: with a seed the same are drawn again, and without one they differ, too."""

import needs
import pytest

torch = needs.module("torch")

from local_models import local  # noqa: E402

from datasets_loader import DATA_SETS, Example  # noqa: E402
from experiment.sample import answer_one  # noqa: E402
from experiment.seeds import OwnNumbers  # noqa: E402
from experiment.settings import RunSettings  # noqa: E402
from language_models.interface import SamplingParams  # noqa: E402

EXAMPLES = [Example(7, "How many apples?", "#### 3"), Example(8, "How many eggs?", "#### 4")]
EXPERIMENTS = {
    "base_only": {"exp": "base_only"},
    "nudging_only": {"exp": "nudging_only", "nudging_temperature": 1.0},
    "nudging": {
        "exp": "nudging",
        "nudging_temperature": 1.0,
        "completion_token_num": 4,
        "completion_token_num_nudging": 4,
    },
    "blend": {"exp": "nudging", "blend": "auto", "max_token_total": 4, "completion_token_num": 4},
    "ensemble": {"exp": "baseline", "proxy_chat_model": "m", "proxy_chat_host": "http://h/v1", "max_token_total": 2},
}
HOSTS = {
    f"{role}_{what}": told for role in ("base", "nudging") for what, told in (("model", "m"), ("host", "http://h/v1"))
}


@pytest.fixture(scope="module")
def models():
    base, small = local("llama", 1, samples=8), local("llama", 2, samples=8)
    return {"base": base, "nudging": small, "proxy_chat": small}


def answers(models, how: dict, mode: str = "published", number: int = 2, **more) -> list[dict]:
    """The records of two questions."""
    options = {"base_temperature": 1.0, "max_token_total": 8, "answers": number, "nudging_template": "chatml"}
    settings = RunSettings(**HOSTS | options | how | more)
    builders = dict.fromkeys(settings.models, lambda system, user: f"{user}\n")
    used = {role: models[role] for role in settings.models}
    indices = range(len(EXAMPLES) * number)
    found = [answer_one(settings, DATA_SETS["gsm8k"], i, EXAMPLES[i // number], builders, used, mode) for i in indices]
    assert not [record["error"] for record in found if "error" in record]
    return found


def texts(*told, **more) -> list[str]:
    return [record["raw_answer"] for record in answers(*told, **more)]


@pytest.mark.parametrize("how", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_seed_draws_the_same_answers_again_and_each_another(how, models):
    first = texts(models, how, seed=1)
    assert first == texts(models, how, seed=1)
    assert len({*first, *texts(models, how, seed=2)}) == 8
    assert texts(models, how, number=1, seed=1) == [first[0], first[2]]  # with more answers the first ones stay


@pytest.mark.parametrize("how", ["base_only", "nudging"])
def test_without_a_seed_answers_differ_and_the_first_is_that_of_a_run_with_one(how, models):
    first = texts(models, EXPERIMENTS[how])
    assert len(set(first)) == 4
    assert first == texts(models, EXPERIMENTS[how])  # what a run draws that is continued
    assert texts(models, EXPERIMENTS[how], number=1) == [first[0], first[2]]


def test_streams_with_a_seed(models):
    how = EXPERIMENTS["nudging"]
    first = texts(models, how, "streamed", seed=1)
    assert first == texts(models, how, "streamed", seed=1) and len(set(first)) == 4


def test_one_model_in_two_roles_draws_other_numbers_in_each(models):
    """With the same ones a base model would never write another word than its twin proposes."""
    params = SamplingParams(12, 1.0, seed=3)
    drawn = [OwnNumbers(models["base"], role).complete("Why", params).text for role in ("base", "nudging", "base")]
    assert drawn[0] == drawn[2] != drawn[1]


def test_records_say_which_answer_they_are_where_there_are_several(models):
    told = ("index", "id", "answer_number", "answers")
    found = [tuple(record[name] for name in told) for record in answers(models, EXPERIMENTS["base_only"])]
    assert found == [(0, 7, 1, 2), (1, 7, 2, 2), (2, 8, 1, 2), (3, 8, 2, 2)]
    assert not {"answer_number", "answers"} & answers(models, EXPERIMENTS["base_only"], number=1)[0].keys()
