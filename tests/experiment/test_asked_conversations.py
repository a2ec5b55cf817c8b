"""Conversations as each model is asked them: by our templates, and by chat templates as transformers writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from datasets_loader import Example
from experiment.conversations import asked_prompt, system_of, turns_of
from experiment.prompts import PromptBuilder
from language_models.chat_templates import PromptWriter
from language_models.local.chat_template import tokenizer_prompt_writer
from questions.own import own_data_set
from utils import INSTRUCT_TEMPLATES, apply_conversation_template

# After the forms of known ones: a template that strips, one that does not, and one that knows no system turn.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map(
    lambda text: f"a{text}b"
)
EXCHANGES = st.lists(st.tuples(TEXTS, TEXTS), max_size=3)


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    told = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    return PreTrainedTokenizerFast(tokenizer_object=words, **told)


TOKENIZERS = {template: tokenizer_of(template) for template in (CHATML, STRIPS)}


@given(exchanges=EXCHANGES, last=TEXTS, own=st.none() | TEXTS, system=st.none() | TEXTS | st.just(""))
@pytest.mark.parametrize("template", TOKENIZERS, ids=["chatml", "strips"])
def test_as_transformers_writes_it(template, exchanges, last, own, system):
    tokenizer = TOKENIZERS[template]
    history = [turn for asked, told in exchanges for turn in (("user", asked), ("assistant", told))]
    history = [("system", own)] * (own is not None) + history
    data_set = own_data_set(system, "none")
    example = Example(0, last, "", history=tuple(history))
    build = PromptBuilder(tokenizer_prompt_writer(tokenizer, "a model"), "its own")
    before = [("system", data_set.system_prompt)] if own is None and data_set.system_prompt else []
    messages = [{"role": role, "content": text} for role, text in [*before, *history, ("user", last)]]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # A BOS that the reader of the prompt adds by itself is left out of ours.
    assert theirs in (asked_prompt(data_set, example, build), "<s>" + asked_prompt(data_set, example, build))
    assert system_of(data_set, example) == (own if own is not None else data_set.system_prompt)


@given(exchanges=EXCHANGES, last=TEXTS)
@pytest.mark.parametrize("family", INSTRUCT_TEMPLATES)
def test_pairs_are_earlier_turns_in_a_template(family, exchanges, last):
    """The same texts as pairs of --few_shot and as turns make one prompt, but in plain text, where pairs have names."""
    data_set = own_data_set(None, "none")
    write = PromptWriter(lambda turns: apply_conversation_template([(turn.role, turn.text) for turn in turns], family))
    build = PromptBuilder(write, family, plain=family == "plain")
    history = tuple(turn for asked, told in exchanges for turn in (("user", asked), ("assistant", told)))
    as_pairs, as_turns = Example(0, last, "", shots=tuple(exchanges)), Example(0, last, "", history=history)
    assert turns_of(data_set, as_pairs) == turns_of(data_set, as_turns)
    prompts = [asked_prompt(data_set, one, build) for one in (as_pairs, as_turns)]
    if family == "plain" and exchanges:
        assert (
            prompts[0].endswith(f"Question: {last}\nAnswer:\n") and prompts[0].count("Answer:\n") == len(exchanges) + 1
        )
    else:
        assert prompts[0] == prompts[1]


def test_a_question_alone_is_asked_as_ever():
    asked = []

    def build(system: str, user: str) -> str:
        asked.append((system, user))
        return "p"

    assert asked_prompt(own_data_set("S", "none"), Example(0, "q", "", "c\n"), build) == "p" and asked == [
        ("S", "c\nq")
    ]
