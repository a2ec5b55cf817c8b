"""Chat templates that models carry: made for the tests after the forms of known ones, by our renderer and by transformers'."""

import re

import pytest
from gguf_files import gguf_bytes
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from command.errors import OptionError
from language_models.chat_templates import jinja_renderer, prompt_writer
from language_models.hosted.gguf_file import GGUFError, gguf_prompt_writer, read_metadata
from language_models.local.chat_template import named_prompt_writer, tokenizer_prompt_writer

TURNS = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}{% endfor %}"
ANSWER = "{% if add_generation_prompt %}[assistant]{% endif %}"
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}[{{ m['role'] }}]{{ m['content'] }}{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}[system]You are X.{% endif %}"
PARTS_ALONE = (
    "{% for m in messages %}[{{ m['role'] }}]{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
)
DATE = "{% if strftime_now is defined %}Today: {{ strftime_now('%d %b %Y') }}\n{% endif %}"
THINKS = ANSWER + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
LOOPS = "{% for m in messages %}{% if loop.index > 5 %}{% break %}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
GENERATION = "{% for m in messages %}[{{ m.role }}]{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
NAMESPACE = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}:{{ m.content | tojson }}"
    "{% endfor %}"
)
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>"
TAKES = "[system]SYS[user]USER[assistant]"
TEMPLATES = {
    "plain": (TURNS + ANSWER, TAKES),
    "refuses the system turn": (REFUSES_SYSTEM + TURNS + ANSWER, "[user]SYS\nUSER[assistant]"),
    "drops the system turn": (DROPS_SYSTEM + ANSWER, "[user]SYS\nUSER[assistant]"),
    "has a system text of its own": (DEFAULT_SYSTEM + TURNS + ANSWER, TAKES),
    "knows parts alone": (PARTS_ALONE + ANSWER, TAKES),
    "writes the day": (DATE + TURNS + ANSWER, "Today: 26 Jul 2024\n" + TAKES),
    "thinks": (TURNS + THINKS, TAKES + "<think>\n\n</think>\n\n"),
    "breaks a loop": (LOOPS + ANSWER, TAKES),
    "marks what is generated": (GENERATION + ANSWER, TAKES),
    "counts": (NAMESPACE + ANSWER, '1:"SYS"2:"USER"[assistant]'),
    "asks for tools": ("{% if tools is not none %}{{ tools | length }}{% endif %}" + TURNS + ANSWER, TAKES),
}
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>")


def tokenizer_of(template: str | None, bos: str | None = "<s>", adds: bool = True) -> PreTrainedTokenizerFast:
    """A tiny tokenizer with a chat template, which puts its BOS in front of a text, or does not."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, "a"))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos and adds:
        words.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, SPECIAL.index(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>", bos_token=bos)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def gguf(tmp_path):
    """Writes a GGUF file with a chat template, and returns its path."""

    def write(template: str | None, bos: str = "<s>", **more: object):
        told = {"general__architecture": "llama", "tokenizer__ggml__model": "gpt2", "tokenizer__ggml__tokens": SPECIAL}
        told |= {"tokenizer__ggml__scores": (0.0, 1.0), "tokenizer__ggml__bos_token_id": SPECIAL.index(bos)}
        if template is not None:
            told["tokenizer__chat_template"] = template
        path = tmp_path / "model.gguf"
        path.write_bytes(gguf_bytes(**told | more))
        return path

    return write


@pytest.mark.parametrize(("template", "prompt"), TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("bos", ["", "{{ bos_token }}"], ids=["no BOS", "BOS"])
def test_prompt(template, prompt, bos, gguf):
    """The same prompt from a folder and from a GGUF file, with one BOS where the reader adds one and where it adds none."""
    source = bos + template
    added = gguf_prompt_writer(gguf(source, tokenizer__ggml__add_bos_token=True))
    kept = gguf_prompt_writer(gguf(source, tokenizer__ggml__add_bos_token=False))
    assert added("SYS", "USER") == tokenizer_prompt_writer(tokenizer_of(source), "x")("SYS", "USER") == prompt
    own = "<s>" if bos else ""
    assert kept("SYS", "USER") == tokenizer_prompt_writer(tokenizer_of(source, adds=False), "x")("SYS", "USER")
    assert kept("SYS", "USER") == own + prompt


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not re.match("refuses|drops|knows|writes", name)])
def test_the_text_and_the_ids_are_those_of_transformers(name):
    tokenizer = tokenizer_of("{{ bos_token }}" + TEMPLATES[name][0])
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "a a"}]
    theirs = {"conversation": turns, "add_generation_prompt": True, "enable_thinking": False}
    ours = tokenizer_prompt_writer(tokenizer, "x")("a", "a a")
    assert "<s>" + ours == tokenizer.apply_chat_template(**theirs, tokenize=False)
    assert tokenizer(ours)["input_ids"] == tokenizer.apply_chat_template(**theirs, return_dict=False)


def test_a_bos_that_opens_every_turn_is_never_there_twice():
    adds, does_not = (
        tokenizer_prompt_writer(tokenizer_of(CHATML, "<|im_start|>", adds), "x") for adds in (True, False)
    )
    prompt = "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n<|im_start|>"
    assert (does_not("SYS", "USER"), "<|im_start|>" + adds("SYS", "USER")) == (prompt, prompt)


@pytest.mark.parametrize(
    ("more", "adds"),
    [
        ({"tokenizer__ggml__model": "llama"}, True),
        ({"tokenizer__ggml__pre": "llama-bpe"}, True),
        ({"tokenizer__ggml__pre": "tekken"}, True),
        ({"tokenizer__ggml__pre": "qwen2"}, False),
        ({"tokenizer__ggml__pre": "llama-bpe", "tokenizer__ggml__add_bos_token": False}, False),
    ],
)
def test_a_gguf_file_that_says_nothing_of_bos(more, adds, gguf):
    written = gguf_prompt_writer(gguf("{{ bos_token }}" + TURNS + ANSWER, **more))("SYS", "USER")
    assert written == ("" if adds else "<s>") + TAKES


@given(st.text(), st.text())
def test_texts_stay_as_they_are(system, user):
    """Braces, names of special tokens and quotes in a question are text."""
    turns = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}" + ANSWER
    write = prompt_writer(jinja_renderer(turns, {"bos_token": "<s>"}), "<s>")
    assert write(system, user) == f"[system]{system}[user]{user}[assistant]"
    assert write("<s>" + system, "{{ user }} {% if %}" + user).startswith("[system]<s>")


def test_a_template_is_a_stranger():
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ValueError, match="unsafe|access"):
        prompt_writer(jinja_renderer(escape + TURNS, {}))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% if %}", "no Jinja template"),
        ("{{ raise_exception('never') }}", "never"),
        ("nothing of it", "leaves the question out"),
        ("{{ messages[0]['content'] }}{{ 1 // 0 }}", "zero"),
    ],
)
def test_templates_that_cannot_be_used(template, reason, gguf):
    path = gguf(template)
    with pytest.raises(
        GGUFError, match=f"{re.escape(str(path))} cannot be used .*{reason}.*; choose a template by name"
    ):
        gguf_prompt_writer(path)
    with pytest.raises(OptionError, match="'x' cannot be used"):
        tokenizer_prompt_writer(tokenizer_of(template), "x")


def test_models_without_a_template(gguf, tmp_path):
    assert gguf_prompt_writer(gguf(None)) is None
    assert tokenizer_prompt_writer(tokenizer_of(None), "x") is None
    tokenizer_of(None).save_pretrained(tmp_path / "tiny")
    with pytest.raises(OptionError, match="has no chat template; choose a template by name"):
        named_prompt_writer(str(tmp_path / "tiny"))


def test_a_folder_by_its_name(tmp_path):
    tokenizer_of("{{ bos_token }}" + TURNS + ANSWER).save_pretrained(tmp_path / "tiny")
    assert named_prompt_writer(str(tmp_path / "tiny"))("SYS", "USER") == TAKES


def test_no_such_folder(tmp_path):
    with pytest.raises(OptionError, match="cannot be loaded") as error:
        named_prompt_writer(str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in str(error.value) and "\n" not in str(error.value)


def test_what_a_gguf_file_says(gguf):
    found = read_metadata(gguf(TURNS, a__number=7, a__truth=True, a__part=0.5))
    assert (found["a.number"], found["a.truth"], found["a.part"]) == (7, True, 0.5)
    assert found["tokenizer.ggml.tokens"] == [word.encode() for word in SPECIAL]
    assert found["tokenizer.chat_template"] == TURNS and found["tokenizer.ggml.scores"] is None


@given(data=st.data())
def test_spoilt_files_are_named(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("spoilt") / "model.gguf"
    whole = gguf_bytes(general__name="x", tokenizer__chat_template=TURNS, tokenizer__ggml__tokens=SPECIAL)
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut])
    with pytest.raises(GGUFError, match="model.gguf cannot be read .*; is it a GGUF file, and whole"):
        read_metadata(path)
    at, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(min_size=1, max_size=1))
    path.write_bytes(whole[:at] + byte + whole[at + 1 :])
    try:
        read_metadata(path)
    except GGUFError as error:
        assert str(path) in str(error)
