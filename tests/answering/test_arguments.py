"""Arguments of NudgedPair.load: what cannot be is said before anything is loaded, in the words of Python."""

from pathlib import Path

import pytest
from doubles import free_port

from answering.arguments import in_python, load_settings, own_criterion
from answering.sampling import Asked
from command.errors import OptionError, UserError
from decoding.criteria import Criterion
from nudged_pair import NudgedPair

OWN = Criterion(lambda place, number: place.top_prob >= number, 1, "ours", threshold=0.5, highest=5.0)
HOST = "http://127.0.0.1:9/v1"
PAIR = {"base": "base-lm", "nudging": "llama-2-chat", "base_host": HOST, "nudging_host": HOST}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": ""}, "a nudged pair needs base: its name as served"),
        ({"base": None}, "a nudged pair needs base: "),
        ({"base": "big", "base_host": None}, "a nudged pair needs base_host: a URL"),
        ({"base": "http://a/v1"}, "base is a URL, and so is base_host"),
        ({"base": 3}, "base must be of the type str"),
        ({"nudging_host": 3}, "nudging_host must be of the type str"),
        ({"gamma": 0.3}, "NudgedPair.load has no option gamma"),
        (
            {"threshold": 1.5},
            "threshold of criterion top_prob is the base model's top-1 probability, 0 to 1; it is 1.5",
        ),
        ({"criterion": "entropy", "top_prob_thres": 0.4}, "top_prob_thres is the number of criterion top_prob"),
        ({"criteria": ("entropies",)}, "criteria has no choice 'entropies'; choose one of: top_prob"),
        ({"blend": "half"}, "blend is auto, or how much the nudging model counts, 0 to 1; it is 'half'"),
        ({"criterion": OWN, "threshold": 6.0}, "threshold of one's own criterion is from 0 to 5; it is 6"),
        (
            {"criterion": OWN, "threshold": 0.2, "top_prob_thres": 0.4},
            "threshold and top_prob_thres are the same number",
        ),
        ({"criterion": OWN, "threshold": "0.2"}, "threshold must be of the type float | None; it is '0.2'"),
        ({"max_concurrent": 3}, "NudgedPair.load has no option max_concurrent"),
        ({"top_prob_thres": "0.3"}, "top_prob_thres must be of the type float; it is '0.3'"),
        ({"top_prob_thres": 3}, "top_prob_thres is a probability, 0 to 1; it is 3"),
        ({"num_threads": 2.5}, "num_threads must be of the type int"),
        ({"end_tokens": "</s>"}, "end_tokens must be of the type tuple[str, ...]"),
        ({"engine": "x"}, "engine has no choice 'x'"),
        ({"criterion": "x"}, "no criterion is called 'x'; there are: top_prob"),
        ({"nudging": "small"}, "nudging small: its name tells no instruct template"),
        (
            {"base_api_key_env": "NO_SUCH_VARIABLE"},
            "base_api_key_env: the environment variable NO_SUCH_VARIABLE is not set",
        ),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(UserError) as error:
        NudgedPair.load(**PAIR | arguments)
    assert message in str(error.value) and "--" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "number"), [({}, 0.5), ({"threshold": 3.0}, 3.0), ({"threshold": 0}, 0), ({"top_prob_thres": 0.9}, 0.9)]
)
def test_the_number_of_ones_own_criterion(options, number):
    options = dict(options)
    criterion = own_criterion(OWN, options)
    settings = load_settings(
        {"base": "base-lm", "nudging": "llama-2-chat"}, {"base": HOST, "nudging": HOST}, options | {"logprobs": 1}
    )
    assert Asked().criterion_of(settings, criterion) == (criterion, number)
    assert Asked(threshold=0.7).criterion_of(settings, criterion)[1] == 0.7


def test_a_server_that_is_away():
    away = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(UserError, match=r"^base_host: base-lm at .*no server answers there") as error:
        NudgedPair.load(**PAIR | {"base_host": away}, max_retries=0, max_outage=0.0)
    assert "--" not in str(error.value)


def test_paths_and_lists_are_taken():
    names = {"base": Path("/models/base.gguf"), "nudging": "llama-2-chat"}
    hosts = {"base": None, "nudging": HOST}
    settings = load_settings(names, hosts, {"end_tokens": ["<end>"], "top_prob_thres": 1})
    assert settings.base_model == "/models/base.gguf" and settings.end_tokens == ("<end>",)


def test_a_url_is_the_model_of_its_server(start_server):
    host = start_server("--models", "llama-2-chat").host
    settings = load_settings({"base": "base-lm", "nudging": host}, {"base": HOST, "nudging": None}, {})
    assert (settings.nudging_model, settings.nudging_host) == ("llama-2-chat", host)
    with pytest.raises(OptionError, match="--base_api_key_env"):
        load_settings({"base": host, "nudging": host}, {"base": None, "nudging": None}, {"base_api_key_env": "NO"})


def test_commands_keep_their_options():
    said = "--base_model a: see --base_host (--help), or python scripts/get_demo_models.py --better"
    assert in_python(said) == "base a: see base_host (--help), or python scripts/get_demo_models.py --better"
