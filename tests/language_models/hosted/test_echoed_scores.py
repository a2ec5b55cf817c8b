"""Scores of texts by servers' models: by echo, and place by place, on the scripted server."""

import urllib.request

import pytest
from scripted_lm_server import ScriptedLM
from tokenizer_routes import TokenizerRoutes

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.hosted.text_scores import ServerScorer, echoed_tokens
from language_models.hosted.token_texts import TokenReader
from language_models.interface import ContextLengthError, ModelError
from language_models.scored_text import place_by_place

PROMPT = "Question: how many eggs are left? "
TEXT = "There are 12 eggs,\nso 1 is left over 日本."


def model(host: str, name: str = "base-lm") -> Replicas:
    policy = RetryPolicy(0, 0.0)
    return Replicas([OpenAIEndpoint(name, host, retry_policy=policy)], policy, print)


class TestEcho:
    def test_is_found_out_and_gives_the_models_own_lists_in_one_request(self, server):
        urllib.request.urlopen(urllib.request.Request(f"{server.host[:-3]}/stats/reset", method="POST")).close()
        scorer = ServerScorer(model(server.host, "echoed-lm"))
        found = scorer.score(PROMPT, TEXT, 3)
        assert scorer.echoes and "echo" in scorer.how
        assert server.stats()["echoed-lm"]["requests"] == 2  # a try, and the text
        assert "".join(token.text for token in found) == TEXT[found[0].start :]
        lm = ScriptedLM(2, "echoed-lm")
        for token in found:
            expected = lm.ranked(PROMPT + TEXT[: token.start], 3)
            # A token twice in a list has become one on its way; an end that is printed as "" may be a part of a character.
            assert token.top[0] == (expected[0][0].replace("\0", "\ufffd"), pytest.approx(expected[0][1]))
            assert token.top == tuple((t.replace("\0", "\ufffd"), pytest.approx(p)) for t, p in expected)
            own = dict(expected).get(token.text)
            assert own is None or token.logprob == pytest.approx(own)

    def test_says_what_asking_place_by_place_says(self, server):
        asked = model(server.host)
        found = ServerScorer(asked).score(PROMPT, TEXT, 3)
        places = place_by_place(asked.for_sample(0), PROMPT, [(t.start, t.text) for t in found], TEXT, 3)
        assert [t.top for t in found] == [tuple((text, pytest.approx(p)) for text, p in t.top) for t in places]

    def test_a_text_that_is_too_long_is_named(self, start_server):
        small = start_server("--seed", "2", "--max_model_len", "30")
        scorer = ServerScorer(model(small.host))
        with pytest.raises(ContextLengthError, match="context"):
            scorer.score(PROMPT, TEXT * 5, 3)
        assert scorer.score("How many", " are left", 3)

    def test_a_token_in_prompt_and_text_is_no_place(self, server):
        found = ServerScorer(model(server.host)).score("How ma", "ny eggs", 2)
        assert [(token.start, token.text) for token in found] == [(2, " eggs")]


def choice(tokens, text, own=None, tops=None, **more):
    own = own or [None, *[-1.0] * (len(tokens) - 1)]
    tops = tops or [None, *({name: -1.0, "x": -0.5} for name in tokens[1:])]
    told = {"tokens": tokens, "token_logprobs": own, "top_logprobs": tops, **more}
    return {"text": text, "finish_reason": "length", "logprobs": told}


@pytest.mark.parametrize(
    "tokens, text, begin, starts",
    [
        (
            ["<s>", "How", " are", " you", "!"],
            "How are you!",
            3,
            [0, 4],
        ),  # a beginning of sequence that the text has not
        (["How", "Ġare", "Ġyou", "!"], "How are you!", 3, [0, 4]),  # byte-level pieces
        (["▁How", "▁are", "▁you", "!"], "How are you!", 3, [0, 4]),
        (["How", "are", "you", "!"], "How are you!", 3, [0, 4]),  # spaces are lost
        (["How", " are", " �", "�", "!"], "How are é!", 3, [0, 4, 4]),  # a character of two tokens
    ],
)
def test_echoes_of_all_forms_are_cut_at_the_text(tokens, text, begin, starts):
    whole = text[:-1]
    found = echoed_tokens(TokenReader(), choice(tokens, text), begin, whole, 1)
    assert [token.start for token in found] == starts
    assert "".join(token.text for token in found) == whole[begin:]
    assert all(token.top == (("x", -0.5),) and token.logprob == -1.0 for token in found)


def test_the_echo_of_vllm():
    """As vLLM answers: parts of characters are "", ends have names, the text's own token is listed besides."""
    tokens = ["<|im_start|>", "Hi", "", " 😀", " é", "<|im_end|>"]
    tops = [None, {"Hi": -7.0, "def": -2.5}, {"": -8.2, ",": -1.2}, {" 😀": -2.9, " 😉": -1.8}, {" é": -17.0, "": -0.8}]
    tops.append({"<|im_end|>": -0.5, " é": -1.0})
    offsets = [0, 12, 14, 14, 16, 18]
    own = [None, -7.0, -8.2, -2.9, -17.0, -0.5]
    made = choice(tokens, "<|im_start|>Hi 😀 é", own, tops, text_offset=offsets) | {"finish_reason": "stop"}
    found = echoed_tokens(TokenReader(), made, 12, "<|im_start|>Hi 😀 é", 1)
    assert [(t.start, t.text, t.top) for t in found] == [
        (0, "Hi", (("def", -2.5),)),
        (2, "", ((",", -1.2),)),
        (2, " 😀", ((" 😉", -1.8),)),
        (4, " é", (("�", -0.8),)),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        {"text": "!", "logprobs": {"tokens": ["!"], "token_logprobs": [-1.0], "top_logprobs": [{"!": -1.0}]}},
        {"text": "How are!", "logprobs": None},
        choice(["How", " are", "!"], "How are!", own=[None, None, -1.0], tops=[None, None, {"!": -1.0}]),
        choice(["How", " are", "!"], "How are!", own=[None]),
    ],
    ids=["no echo", "no log-probabilities", "none of the prompt", "too few"],
)
def test_what_is_no_echo_with_log_probabilities_is_known(reply):
    assert echoed_tokens(TokenReader(), {"finish_reason": "length"} | reply, 3, "How are", 2) is None


class Unechoing(TokenizerRoutes):
    """A server without echo, whose tokens are characters: after each the model is sure of "e", then of "t"."""

    def answer(self, path, body):
        if path == "/v1/completions":
            tops = {"e": -0.1, "t": -2.5, "a": -4.0}
            told = {"tokens": ["e"], "token_logprobs": [-0.1], "top_logprobs": [tops], "text_offset": [0]}
            return {"choices": [{"index": 0, "text": "e", "finish_reason": "length", "logprobs": told}]}
        return super().answer(path, body)


def test_a_server_without_echo_is_asked_place_by_place(reply_server):
    scorer = ServerScorer(model(reply_server(Unechoing("llama_cpp")).host, "lm"))
    found = scorer.score("How ", "tea", 2)
    assert not scorer.echoes and "place by place" in scorer.how and scorer.requests == 3
    assert [(token.start, token.text, token.logprob) for token in found] == [
        (0, "t", -2.5),
        (1, "e", -0.1),
        (2, "a", None),
    ]
    assert all(token.top == (("e", -0.1), ("t", -2.5)) for token in found)


def test_without_echo_and_tokenizer_it_is_said_what_to_do(reply_server):
    with pytest.raises(ModelError, match="neither echoes .* serve the model with vLLM"):
        ServerScorer(model(reply_server(Unechoing("none")).host, "lm")).score("How ", "tea", 2)
