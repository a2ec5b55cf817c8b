"""The answer piece by piece: what comes out is final, comes early, and ends the writing when nobody reads on."""

import math

import pytest
from test_nudging import InProcess, Scripted, Streamed, completion

from language_models.interface import ModelError
from nudging import CRITERIA, Criterion, NudgingResult, NudgingSettings, Piece, answer_stream, nudge

SETTINGS = NudgingSettings(top_prob_thres=0.4)


class Watched(Scripted):
    """Keeps its streams."""

    def __init__(self, prompt: str, answers: dict):
        super().__init__(prompt, answers)
        self.streams: list[Streamed] = []

    def stream(self, prompt, params, draft=""):
        self.streams.append(super().stream(prompt, params, draft))
        return self.streams[-1]

    @property
    def open_streams(self) -> list[Streamed]:
        return [stream for stream in self.streams if not stream.closed and stream.finish_reason is None]


def a_pair(ending=" end") -> tuple[Watched, Watched]:
    base = Watched("B:", {" So": completion(" now", (" we", 0.9), (" go", 0.1))})
    return base, Watched("N:", {"": completion(" So", " then"), " So now we": completion(ending, stop=True)})


@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_pieces_say_who_wrote_them_and_are_the_answer(calls):
    pieces, rounds, result = [], [], NudgingResult()
    stream = answer_stream(*a_pair(), "B:", "N:", SETTINGS, lambda *told: rounds.append(told), calls, result=result)
    for piece in stream:
        pieces.append(piece)
        assert result.text == "".join(piece.text for piece in pieces)
    by_whom = [(" So", "nudging"), (" now", "base"), (" we", "base"), (" end", "nudging")]
    assert pieces == [Piece(*piece) for piece in by_whom]
    assert result == nudge(*a_pair(), "B:", "N:", SETTINGS, request_mode=calls)
    assert (result.pieces, result.base_tokens) == ([" So now we", " end"], 2)
    assert rounds == [(1, " So", " So now we"), (2, " end", " end")]


@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_pieces_without_text_are_recorded_alone(calls):
    rounds = []
    stream = answer_stream(*a_pair(ending=""), "B:", "N:", SETTINGS, lambda *told: rounds.append(told), calls)
    assert [piece.text for piece in stream] == [" So", " now", " we"]
    assert rounds == [(1, " So", " So now we"), (2, "", "")]


def test_the_generator_returns_the_record():
    stream = answer_stream(*a_pair(), "B:", "N:", SETTINGS)
    with pytest.raises(StopIteration) as end:
        while True:
            next(stream)
    assert end.value.value.stop_reason == "nudging_model_stop" and end.value.value.answer == "So now we end"


def test_tokens_come_as_soon_as_they_are_no_repetition():
    base = Watched("B:", {" So": completion(" now", " we", " go", " on", " and", " on", " and", " on")})
    nudging_model = Watched("N:", {"": completion(" So", " then")})
    stream = answer_stream(base, nudging_model, "B:", "N:", SETTINGS, request_mode="streamed")
    read = []
    for piece in stream:
        if piece.by == "base":
            read.append((piece.text, base.streams[0].read))
        if piece.text == " and":
            break
    # Each at once: no more has been read than has come out.
    assert read == [(text, n) for n, text in enumerate([" now", " we", " go", " on", " and"], 1)]


def test_a_text_that_may_be_a_repetition_is_held_back():
    """The second call writes what was written, until it goes on otherwise."""
    settings = NudgingSettings(0.4, completion_token_num=3)
    base = Watched("B:", {" So": completion(" a", " b", " c", " a", " b", " d", ("x", 0.1))})
    nudging_model = Watched("N:", {"": completion(" So", " then")})
    stream = answer_stream(base, nudging_model, "B:", "N:", settings, request_mode="streamed")
    assert [next(stream).text for _ in range(4)] == [" So", " a", " b", " c"]
    assert next(stream).text == " a" and base.streams[0].read == 6
    stream.close()


@pytest.mark.parametrize("how", ["close", "let go", "leave the loop"])
def test_who_stops_reading_ends_the_writing(how):
    pair = a_pair()
    stream = answer_stream(*pair, "B:", "N:", SETTINGS, request_mode="streamed")
    if how == "leave the loop":
        for _ in stream:
            break
    else:
        next(stream)
    assert pair[0].open_streams
    if how == "close":
        stream.close()
    del stream
    assert pair[0].streams and not [stream for model in pair for stream in model.open_streams]


def test_a_failure_after_a_proposal_that_ends_the_answer_does_not_count():
    """The published program would not have asked the base model."""
    base = Watched("B:", {" The": ModelError("gone")})
    nudging_model = Watched("N:", {"": completion(" The", " end", " is near", stop=True)})
    result = nudge(base, nudging_model, "B:", "N:", SETTINGS, request_mode="streamed")
    assert (result.text, result.stop_reason, base.asked) == (" The end is near", "nudging_model_stop", [" The"])
    with pytest.raises(ModelError, match="gone"):
        nudge(
            base,
            Watched("N:", {"": completion(" The", " end", " is near")}),
            "B:",
            "N:",
            SETTINGS,
            request_mode="streamed",
        )


def test_what_follows_a_proposal_that_ends_the_answer_is_not_read_on():
    """The base model writes on and on; how long the proposal takes is known after the first."""
    base = Watched("B:", {" So": completion(*[f" {n}" for n in range(16)])})
    nudging_model = Watched("N:", {"": completion(" So", " then", stop=True)})
    result = nudge(base, nudging_model, "B:", "N:", SETTINGS, request_mode="streamed")
    assert result.text == " So then" and result.base_tokens == 0
    assert base.streams[0].read == 1 and base.streams[0].closed


@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_another_criterion_is_an_entry_of_the_table(calls, monkeypatch):
    """By how much the most probable token leads."""

    def leads(token, by):
        return math.exp(token.top[0][1]) - math.exp(token.top[1][1]) >= by

    monkeypatch.setitem(CRITERIA, "margin", Criterion(leads, logprobs=2, paper="none"))
    asked = []

    class TwoLogprobs(InProcess):
        def tokens(self, prompt, max_tokens):
            for token in super().tokens(prompt, max_tokens):
                yield type(token)(token.text, (*token.top, ("?", math.log(0.3))))

        def stream(self, prompt, params, draft=""):
            asked.append(params.logprobs)
            return super().stream(prompt, params, draft)

        def complete(self, prompt, params):
            asked.append(params.logprobs)
            return super().complete(prompt, params)

    def pair():
        return TwoLogprobs("base-lm", 2), InProcess("llama-2-chat", 2)

    prompts = ["Question: what are 3 and 4?\n"] * 2
    found = nudge(*pair(), *prompts, NudgingSettings(top_prob_thres=0.2), request_mode=calls, criterion="margin")
    assert set(asked) == {2} and len(found.pieces) > 2
    # With a fixed second, a lead of 0.2 is a top probability of 0.5.
    assert found == nudge(*pair(), *prompts, NudgingSettings(top_prob_thres=0.5), request_mode=calls)


def test_the_criterion_of_the_paper():
    assert all(criterion.paper for criterion in CRITERIA.values())
    top_prob, (token,) = CRITERIA["top_prob"], completion((" a", 0.25)).tokens
    assert top_prob.logprobs == 1  # as the published program asks
    assert top_prob.certain(token, 0.25) and not top_prob.certain(token, 0.26)


@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_pieces_carry_the_base_models_probability(calls):
    base = Watched("B:", {" So": completion((" now", 0.7), (" we", 0.9), (" go", 0.1))})
    nudging_model = Watched("N:", {"": completion(" So", " then"), " So now we": completion(" end", stop=True)})
    stream = answer_stream(base, nudging_model, "B:", "N:", SETTINGS, request_mode=calls)
    found = [(piece.text, piece.top_prob and round(piece.top_prob, 3)) for piece in stream]
    # Where the answer begins the base model was not asked; later it was uncertain of the token that it did not write.
    assert found == [(" So", None), (" now", 0.7), (" we", 0.9), (" end", 0.1)]


@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_behind_a_repetition_there_is_no_probability(calls):
    settings = NudgingSettings(0.4, completion_token_num=2)
    base = Watched("B:", {" So": completion(" a", " b"), " So a b": completion(" a", " b")})
    nudging_model = Watched("N:", {"": completion(" So", " then"), " So a b": completion(" end", stop=True)})
    if calls == "streamed":
        base = Watched("B:", {" So": completion(" a", " b", " a", " b")})
    stream = answer_stream(base, nudging_model, "B:", "N:", settings, request_mode=calls)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == " So a b end"
    assert [piece.top_prob for piece in pieces if piece.by == "nudging"] == [None, None]


@pytest.mark.parametrize("calls", ["published", "streamed"])
def test_where_nobody_takes_over_the_next_words_carry_what_the_base_model_was_uncertain_of(calls):
    base = Watched("B:", {" So": completion((" it", 0.3)), " So we": completion((" go", 0.2))})
    answers = {"": completion(" So", " we", " then"), " So we": completion(" end", stop=True)}
    pieces = answer_stream(base, Watched("N:", answers), "B:", "N:", SETTINGS, request_mode=calls)
    found = [(piece.text, piece.top_prob and round(piece.top_prob, 3)) for piece in pieces]
    assert found == [(" So we", None), (" end", 0.2)]
