"""The nudging loop on models that a test writes down; the published program's text is tested in test_reference_cases.py."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import CASES
from scripted_lm_server import EOS, ScriptedLM

from datasets_loader import DATA_SETS
from language_models.interface import Completion, ContextLengthError, Token, Usage
from language_models.proposals import all_but_last_word, candidate_heads
from nudging import NudgingSettings, nudge
from utils import apply_instruct_template


def completion(*pieces: str | tuple[str, float], stop: bool = False) -> Completion:
    """A completion of tokens: a text (certain), or (text, probability); "" is the end of sequence."""
    pairs = [(piece, 0.99) if isinstance(piece, str) else piece for piece in pieces]
    tokens = tuple(Token(text, ((text, math.log(p)),)) for text, p in pairs)
    return Completion("".join(token.text for token in tokens), tokens, "stop" if stop else "length", Usage(requests=1))


class Streamed:
    """Tokens as a stream; counts how many were read, and whether it was closed before its end."""

    def __init__(self, tokens, finish_reason: str):
        self.tokens, self.finish, self.read, self.closed = list(tokens), finish_reason, 0, False
        self.usage = Usage(requests=1)

    @property
    def finish_reason(self):
        return self.finish if self.read == len(self.tokens) else None

    def __iter__(self):
        return self

    def __next__(self):
        if self.closed or self.read == len(self.tokens):
            raise StopIteration
        self.read += 1
        return self.tokens[self.read - 1]

    def close(self):
        self.closed = True


class Scripted:
    """Answers by what stands behind the prompt; anything it does not know is a failure of the test."""

    name = "scripted"
    runs_ahead = True

    def stream(self, prompt, params, draft=""):
        answer = self.complete(prompt, params)
        return Streamed(answer.tokens, answer.finish_reason)

    def __init__(self, prompt: str, answers: dict[str, Completion | Exception]):
        self.prompt, self.answers, self.asked = prompt, answers, []

    def complete(self, prompt, params):
        self.asked.append(text := prompt.removeprefix(self.prompt))
        answer = self.answers[text]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(params=["published", "streamed"])
def run(request):
    """Run the loop on answers by the text before them."""
    return lambda base, nudging, **settings: run_calls(request.param, base, nudging, **settings)


def run_calls(calls: str, base: dict, nudging: dict, **settings):
    models = Scripted("B:", base), Scripted("N:", nudging)
    rounds = []
    result = nudge(
        *models,
        *("B:", "N:"),
        NudgingSettings(**{"top_prob_thres": 0.4} | settings),
        lambda *told: rounds.append(told),
        calls,
    )
    assert "".join(result.pieces) == result.text
    assert [
        piece[: len(words)] for piece, words in zip(result.pieces, result.nudging_words, strict=True)
    ] == result.nudging_words
    return result, *models, rounds


def test_the_base_model_takes_over_where_it_agrees_however_uncertain(run):
    result, base, _, rounds = run(
        {" First we": completion((" ad", 0.2), "d", (" it", 0.1)), " First": completion(("x", 0.1))},
        {
            "": completion(" First we add"),
            " First we ad": completion("d them", stop=True),
            " First we add": completion(".", stop=True),
        },
    )
    assert result.nudging_words == [" First we", "."]
    assert result.pieces == [" First we add", "."]
    assert result.stop_reason == "nudging_model_stop"
    assert base.asked == [" First", " First we"]
    assert rounds == [(1, " First we", " First we add"), (2, ".", ".")]


def test_the_base_model_takes_over_where_it_is_certain(run):
    result, *_ = run(
        {" So": completion(" now", (" we", 0.39), " go")},
        {"": completion(" So then we"), " So now": completion(" end", stop=True)},
    )
    assert result.pieces == [" So now", " end"]


def test_nobody_takes_over_and_the_last_word_may_be_cut(run):
    result, *_ = run(
        {" So": completion(("x", 0.1)), " So then": completion(("y", 0.1))},
        {"": completion(" So then we"), " So then": completion("", stop=True)},
    )
    assert result.pieces == [" So then"] and result.stop_reason == "nudging_model_stop"
    assert result.nudging_words == [" So then"]  # an empty ending is no nudging word


def test_a_single_word_is_taken_whole(run):
    result, base, *_ = run({}, {"": completion("Hm"), "Hm": completion("m", stop=True)})
    assert result.text == "Hmm" and base.asked == []


def test_the_base_model_that_ends_the_answer_is_asked_no_more(run):
    result, base, *_ = run(
        {" The": completion("")}, {"": completion(" The end"), " The": completion(" end", stop=True)}
    )
    assert result.text == " The end" and base.asked == [" The"]


def test_an_uncertain_end_is_nudged(run):
    result, *_ = run(
        {" A": completion(" b", (" c", 0.9), ("", 0.3), stop=True)},
        {"": completion(" A b c"), " A b c": completion(" d", stop=True)},
    )
    assert result.pieces == [" A b c", " d"]


def test_the_answer_ends_at_its_length(run):
    result, *_ = run(
        {" a": completion(" b")} | {" a" + " b" * n: completion(*[" b"] * 3) for n in range(1, 9)},
        {"": completion(" a b")},
        max_token_total=1,
    )
    assert result.stop_reason == "length"


def test_repeated_nudging_words_end_the_answer(run):
    words = completion("go")
    result, *_ = run({}, {"go" * n: words for n in range(9)})
    assert result.stop_reason == "repeated_nudging_words"
    assert result.nudging_words == ["go"] * 3


def test_at_most_150_rounds(run):
    result, *_ = run({}, {("ab" * 75)[:n]: completion("ab"[n % 2]) for n in range(150)})
    assert result.stop_reason == "round" and len(result.pieces) == 150


def test_no_room_in_the_context_keeps_the_text_so_far(run):
    full = ContextLengthError("full")
    result, *_ = run({" A": completion(" b", " c"), " A b c": full}, {"": completion(" A b")})
    assert (result.text, result.stop_reason) == (" A b c", "context_length")
    result, *_ = run({" A": full}, {"": completion(" A b")})
    assert (result.text, result.stop_reason) == ("", "context_length")
    result, *_ = run({}, {"": completion("Hm"), "Hm": full})
    assert (result.answer, result.stop_reason) == ("Hm", "context_length")


@given(st.text(alphabet=" \nab.é", max_size=30))
def test_word_splitting(text):
    heads = list(candidate_heads(text))
    for head in heads:
        assert text.startswith(head + " ") and text[len(head) + 1] != " "
    rest = text.lstrip(" ")
    # every word but the first is a place to take over
    assert len(heads) == len([word for word in rest.split(" ")[1:] if word])
    assert text.startswith(all_but_last_word(text))
    assert all_but_last_word(text) == (text if " " not in rest else text[: text.rindex(" ")])


class InProcess:
    """The scripted server's model as a LanguageModel, without the server; counts tokens that were written."""

    def __init__(self, name: str, seed: int, runs_ahead: bool = True):
        self.name, self.model, self.runs_ahead = name, ScriptedLM(seed, name), runs_ahead
        self.written = 0

    def tokens(self, prompt, max_tokens):
        text = ""
        for _ in range(max_tokens):
            ((token, logprob),) = self.model.ranked(prompt + text, 1)
            piece = "" if token == EOS else token
            text += piece
            self.written += 1
            yield Token(piece, ((piece, logprob),))
            if token == EOS:
                return

    def complete(self, prompt, params):
        tokens = tuple(self.tokens(prompt, params.max_tokens))
        text = "".join(token.text for token in tokens)
        return Completion(text, tokens, "length" if tokens[-1].text else "stop", Usage(requests=1))

    def stream(self, prompt, params, draft=""):
        return InProcessStream(self.tokens(prompt, params.max_tokens), params.max_tokens)


class InProcessStream:
    def __init__(self, tokens, max_tokens):
        self.tokens, self.left, self.finish_reason, self.usage = tokens, max_tokens, None, Usage(requests=1)

    def __next__(self):
        token = next(self.tokens)
        self.left -= 1
        self.finish_reason = "stop" if not token.text else None if self.left else "length"
        return token

    def close(self):
        self.tokens.close()


@pytest.mark.parametrize("calls", ["published", "streamed", "lazy"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["exp"] == "nudging"])
def test_recorded_cases_without_a_server(name, calls):
    case, system = CASES[name], DATA_SETS["gsm8k"].system_prompt
    base, nudging = (InProcess(case[f"{role}_model"], case["seed"], calls != "lazy") for role in ("base", "nudging"))
    options = ("top_prob_thres", "completion_token_num", "completion_token_num_nudging", "max_token_total")
    settings = NudgingSettings(**{option: case[option] for option in options})
    for record in case["records"][:6]:
        prompts = [apply_instruct_template(m.name, system, "Question: " + record["question"]) for m in (base, nudging)]
        result = nudge(
            base, nudging, *prompts, settings, request_mode="published" if calls == "published" else "streamed"
        )
        assert (result.answer, result.stop_reason) == (record["raw_answer"], record["stop_reason"])
        assert (result.nudging_words, result.pieces) == (record["all_nudging_words"], record["all_completions"])
