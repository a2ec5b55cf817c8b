"""Answers of the server: OpenAI's shapes, what nudging adds, and that the text is the loop's own."""

import pytest
from served_pair import chat_body, in_this_process, read_events, settings_over

from answering.sampling import Asked
from nudging import nudge
from utils import clean_answer

QUESTION = "How many days are in two weeks?"


def by_the_loop(served, question: str = QUESTION, **settings) -> str:
    """The uncleaned answer that the loop gives if it is called directly."""
    from dataclasses import replace

    pair, prompts = served.pair, served.pair.prompts(question)
    models = [pair.models[role].for_sample(0) for role in ("base", "nudging")]
    asked = replace(pair.settings.nudging_settings, **settings)
    return nudge(*models, prompts.base, prompts.nudging, asked, request_mode=pair.request_mode).text


def test_a_whole_chat_has_openais_fields_and_the_loops_text(served):
    reply = served.chat(QUESTION)
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/json"
    body = reply.json()
    choice = body["choices"][0]
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-") and body["model"] == "pair"
    assert choice["message"] == {"role": "assistant", "content": by_the_loop(served), "refusal": None}
    assert choice["index"] == 0 and choice["logprobs"] is None and choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > usage["prompt_tokens"] > 0
    nudging = body["nudging"]
    assert nudging == choice["nudging"] and 0 < nudging["rate"] <= 1
    assert "".join(piece["text"] for piece in nudging["pieces"]) == choice["message"]["content"]
    assert nudging["words"] == [piece["text"] for piece in nudging["pieces"] if piece["by"] == "nudging"]
    assert nudging["rounds"] == len(nudging["words"]) and nudging["requests"]["base"] > 0


def test_a_streamed_chat_is_the_same(served):
    whole = served.chat(QUESTION).json()
    chunks = served.chunks(QUESTION, stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    ends = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert ends[:-1] == [None] * (len(ends) - 1) and ends[-1] == whole["choices"][0]["finish_reason"]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == whole["choices"][0]["message"]["content"]
    pieces = [piece for chunk in chunks[:-1] for piece in chunk.get("nudging", {}).get("pieces", ())]
    assert pieces == whole["nudging"]["pieces"]
    told = chunks[-2]["nudging"]
    assert {name: told[name] for name in ("words", "rate", "rounds", "stop_reason")} == {
        name: whole["nudging"][name] for name in ("words", "rate", "rounds", "stop_reason")
    }
    assert {(chunk["id"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        (chunks[0]["id"], "pair", "chat.completion.chunk")
    }


def test_text_goes_to_both_models_as_it_is(served):
    prompt = "Question: What is the capital of France?\nAnswer:"
    reply = served.post("/v1/completions", {"model": "pair", "prompt": prompt, "max_tokens": 20}).json()
    assert reply["object"] == "text_completion" and reply["usage"]["completion_tokens"] <= 20
    models = [served.pair.models[role].for_sample(0) for role in ("base", "nudging")]
    whole = nudge(*models, prompt, prompt, served.pair.settings.nudging_settings, request_mode="streamed").text
    assert whole.startswith(reply["choices"][0]["text"]) and reply["choices"][0]["text"]
    streamed = served.post(
        "/v1/completions", {"model": "pair", "prompt": prompt, "max_tokens": 20, "stream": True}
    ).text
    assert "".join(chunk["choices"][0]["text"] for chunk in read_events(streamed)) == reply["choices"][0]["text"]


def test_several_prompts_and_choices(served):
    prompts = ["What is the capital of France?\n", "What is the capital of Spain?\n"]
    body = {"model": "pair", "prompt": prompts, "n": 2, "max_tokens": 10}
    reply = served.post("/v1/completions", body).json()
    texts = [choice["text"] for choice in reply["choices"]]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] and texts[2] == texts[3]  # greedy, two of each prompt
    chunks = read_events(served.post("/v1/completions", body | {"stream": True}).text)
    streamed = [""] * 4
    for chunk in chunks:
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == texts


def test_choices_with_a_seed_differ_and_are_drawn_again(served):
    sampled = {"temperature": 1.0, "seed": 5, "max_tokens": 12}

    def texts(**more) -> list[str]:
        choices = served.chat(QUESTION, **sampled | more).json()["choices"]
        return [choice["message"]["content"] for choice in choices]

    three = texts(n=3)
    assert len(set(three)) == 3 and texts(n=3) == three
    assert [texts(seed=seed) for seed in (5, 6, 7)] == [[text] for text in three]
    highest = [Asked(seed=2**63 - 2).choice(number).seed for number in range(4)]
    assert len(set(highest)) == 4 and max(highest) == 2**63 - 1


@pytest.mark.parametrize("limit", [1, 2, 7, 19])
def test_max_tokens_is_a_hard_limit(served, limit):
    whole = by_the_loop(served)
    reply = served.chat(QUESTION, max_tokens=1000, max_completion_tokens=limit).json()
    assert reply["usage"]["completion_tokens"] == limit and reply["choices"][0]["finish_reason"] == "length"
    assert whole.startswith(reply["choices"][0]["message"]["content"])
    assert reply["nudging"]["stop_reason"] == "max_tokens"


def test_stop_sequences_end_the_joint_text(served):
    whole = by_the_loop(served)
    middle = len(whole) // 2
    stop = whole[middle : middle + 6]  # across pieces, as it may come
    expected = whole[: whole.find(stop)]
    for given in (stop, ["nowhere", stop, *(f"{n} nowhere" for n in range(100))]):
        reply = served.chat(QUESTION, stop=given).json()
        assert reply["choices"][0]["message"]["content"] == expected
        assert (reply["choices"][0]["finish_reason"], reply["nudging"]["stop_reason"]) == ("stop", "stop_sequence")
        chunks = served.chunks(QUESTION, stop=given)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected


@pytest.mark.parametrize("name", ["pair@0.9", "pair@top_prob:0.9", "pair"])
def test_thresholds_by_name_and_by_field(served, name):
    expected = by_the_loop(served, top_prob_thres=0.9)
    more = {"top_prob_thres": 0.9} if name == "pair" else {}
    reply = served.post("/v1/chat/completions", chat_body(QUESTION, **more) | {"model": name}).json()
    assert reply["choices"][0]["message"]["content"] == expected and reply["model"] == name


@pytest.mark.parametrize("by", ["base", "nudging"])
def test_one_model_alone(served, by):
    reply = served.post("/v1/chat/completions", chat_body(QUESTION, max_tokens=9) | {"model": f"pair@{by}"}).json()
    assert {piece["by"] for piece in reply["nudging"]["pieces"]} == {by}
    assert list(reply["nudging"]["requests"]) == [by] and reply["choices"][0]["message"]["content"]


def test_python_and_the_server_give_the_same(served):
    answer = served.pair.answer(QUESTION)
    assert answer.raw_text == by_the_loop(served) and str(answer) == clean_answer(answer.raw_text)
    assert [piece.text for piece in served.pair.stream(QUESTION)] == [piece.text for piece in answer.pieces]
    assert served.chat(QUESTION).json()["nudging"]["words"] == answer.nudging_words


def test_models_are_listed_and_found(served):
    listed = served.http.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in listed][:2] == ["pair", "pair@0.1"]
    for entry in listed:
        assert served.http.get(f"/v1/models/{entry['id']}").json() == entry
    assert served.http.get("/v1/models/pair@0.35").json()["nudging"]["top_prob_thres"] == 0.35
    assert served.http.get("/v1/models/other").status_code == 404


def test_one_model_alone_has_no_threshold(served):
    for name, value in (("top_prob_thres", 0.5), ("criterion", "top_prob")):
        reply = served.post("/v1/chat/completions", chat_body(QUESTION) | {"model": "pair@base", name: value})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("by", ["base", "nudging"])
def test_one_model_alone_answers_as_far_as_its_window_goes(start_server, by):
    """Where nobody has said how long the answer may be; the pair does so, too."""
    window = start_server("--seed", "2", "--max_model_len", "200")
    with in_this_process(settings_over(window.host)) as served:
        reply = served.post("/v1/chat/completions", chat_body(QUESTION) | {"model": f"pair@{by}"})
        assert reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"]
        too_long = served.post("/v1/chat/completions", chat_body("long " * 400) | {"model": f"pair@{by}"})
        assert too_long.json()["error"]["code"] == "context_length_exceeded"
