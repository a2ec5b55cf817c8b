"""What a pair is asked: messages of OpenAI's API as turns, and turns as prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answering.conversations import ConversationError, Prompts, turns_of, write_prompts
from answering.sampling import Asked, AskedError
from experiment.prompts import PromptBuilder, PromptError
from language_models.chat_templates import PromptWriter, Turn, jinja_renderer, prompt_writer
from nudging import Criterion
from utils import INSTRUCT_TEMPLATES, apply_conversation_template, apply_instruct_template

TALK = [("system", "S"), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2"), ("user", "Q3")]
HEADER = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
# The families' own chat templates, of what matters here.
OWN = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama-3": "{% for m in messages %}" + HEADER + "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "gemma": "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "olmo": "<|endoftext|>{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}\n{% else %}"
    "<|assistant|>\n{{ m.content }}<|endoftext|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
}


def messages(turns) -> list[dict]:
    return [{"role": role, "content": text} for role, text in turns]


@pytest.mark.parametrize("family", OWN)
@pytest.mark.parametrize("talk", [TALK, TALK[1:], TALK[:2], TALK[1:2]], ids=["system", "none", "one", "question"])
def test_families_by_name_write_conversations_as_their_own_templates(family, talk):
    if family == "olmo" and talk[0][0] == "system":
        talk = talk[1:]  # its own template knows no system turn, and the published one puts it in front of the user's
    own = prompt_writer(jinja_renderer(OWN[family], {}))
    assert apply_conversation_template(talk, family) == own.conversation([Turn(*turn) for turn in talk])


@pytest.mark.parametrize("family", INSTRUCT_TEMPLATES)
@given(system=st.text(max_size=20), user=st.text(max_size=20))
def test_a_question_is_written_as_published(family, system, user):
    published = apply_instruct_template("x", system, user, family=family)
    assert apply_conversation_template([("system", system), ("user", user)], family) == published


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text("ab\n", max_size=4)), max_size=8))
def test_plain_turns_are_lines(turns):
    assert apply_conversation_template(turns, "plain") == "".join(f"{text}\n" for _, text in turns)


def test_llama_2():
    written = apply_conversation_template(TALK[:4], "llama-2")
    assert written == "[INST] <<SYS>>\nS\n<</SYS>>\n\nQ1 [/INST] A1 </s><s>[INST] Q2 [/INST] "
    assert apply_conversation_template([("user", "Q")], "llama-2") == "[INST] Q [/INST] "


@pytest.mark.parametrize("family", [name for name in INSTRUCT_TEMPLATES if name != "plain"])
def test_odd_orders_lose_no_turn(family):
    talk = [
        ("assistant", "Hello"),
        ("user", "Q1"),
        ("user", "Q2"),
        ("assistant", "Yes"),
        ("system", "Rule"),
        ("user", "Q3"),
    ]
    written = apply_conversation_template(talk, family)
    places = [written.find(text) for _, text in talk]
    assert places == sorted(places) and places[0] >= 0


def builders(base=None, nudging=None) -> dict[str, PromptBuilder]:
    def by(family):
        return PromptWriter(lambda turns: apply_conversation_template([(t.role, t.text) for t in turns], family))

    return {
        "base": PromptBuilder(base or by("plain"), "plain"),
        "nudging": PromptBuilder(nudging or by("chatml"), "chatml"),
    }


def test_the_base_model_reads_lines_and_the_nudging_model_its_template():
    found = write_prompts(turns_of(messages(TALK[:4])), builders())
    assert found == Prompts("S\nQ1\nA1\nQ2\n", apply_conversation_template(TALK[:4], "chatml"))


def test_an_assistants_last_message_goes_on_where_that_is_asked_for():
    turns = turns_of(messages([*TALK[:2], ("assistant", "It is")]))
    found = write_prompts(turns, builders(), continued=True)
    assert found.base == "S\nQ1\nIt is" and found.nudging.endswith("<|im_start|>assistant\nIt is")
    with pytest.raises(ConversationError, match="continue_final_message"):
        write_prompts(turns, builders())
    with pytest.raises(ConversationError, match="must be the last"):
        write_prompts(turns[:-1], builders(), continued=True)


def test_a_template_that_leaves_a_turn_out_is_refused():
    first_alone = "[{{ messages[0].content }}][{{ messages[1].content }}]"
    writer = prompt_writer(jinja_renderer(first_alone, {}))
    assert writer("S", "U") == "[S][U]"
    with pytest.raises(PromptError, match="leaves a turn of the user out"):
        write_prompts(turns_of(messages(TALK[:4])), builders(nudging=writer))


def test_a_system_text_stands_in_front_where_the_template_has_no_place_for_it():
    writer = prompt_writer(jinja_renderer(OWN["gemma"], {}))
    turns = [Turn(*turn) for turn in [*TALK[:3], ("system", "S2"), ("user", "Q2")]]
    assert "<start_of_turn>user\nS\nQ1<end_of_turn>" in writer.conversation(turns)
    assert "<start_of_turn>user\nS2\nQ2<end_of_turn>" in writer.conversation(turns)
    with pytest.raises(ValueError, match="no turn of the user behind it"):
        writer.conversation(turns[:-1])


@pytest.mark.parametrize(
    ("given_messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("Hello", "messages"),
        (["Hello"], "messages[0]"),
        ([{"content": "Hello"}], "messages[0].role"),
        ([{"role": "robot", "content": "Hello"}], "messages[0].role"),
        ([{"role": "tool", "content": "4"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 4}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": ["Hello"]}], "messages[0].content[0].type"),
        ([{"role": "system", "content": "Hello"}], "messages"),
        (
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": [{}]}],
            "messages[1].tool_calls",
        ),
    ],
)
def test_what_is_no_conversation(given_messages, param):
    with pytest.raises(ConversationError) as raised:
        turns_of(given_messages)
    assert raised.value.param == param and "\n" not in str(raised.value)


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b\ud800"}]
    assert turns_of([{"role": "developer", "content": "S"}, {"role": "user", "content": parts}]) == [
        Turn("system", "S"),
        Turn("user", "a\nb\ufffd"),
    ]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"top_prob_thres": 1.1}, "top_prob_thres"),
        ({"top_prob_thres": "0.3"}, "top_prob_thres"),
        ({"threshold": float("inf")}, "threshold"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"criterion": "none"}, "criterion"),
        ({"stop": [""]}, "stop"),
        ({"stop": [3]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"by": "both"}, "by"),
        ({"by": ["base"]}, "by"),
        ({"criterion": lambda token, threshold: True}, "criterion"),
    ],
)
def test_what_cannot_be_asked_for(asked, param):
    with pytest.raises(AskedError) as raised:
        Asked(**asked)
    assert raised.value.param == param and param in str(raised.value)


def test_what_can_be_asked_for():
    own = Criterion(lambda token, threshold: True, 1, "none")
    asked = Asked(0.5, 0.5, own, 10, 20, "stop", 0.7, 1, -3)
    assert asked.stop == ("stop",) and asked.criterion is own
