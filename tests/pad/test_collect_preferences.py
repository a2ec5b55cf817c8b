"""collect_model_outs.py for preferences and weights of one's own, in one command."""

import json

import needs
import pytest

needs.module("torch")

from collect_runs import GREEDY, collect, options, rows_of, without_times  # noqa: E402
from tiny_models import CHAT_TEMPLATE, make_model, make_tokenizer, save  # noqa: E402

from command.console import visible  # noqa: E402
from language_models.local.loading import load_tokenizer  # noqa: E402
from pad.preferences import from_principles  # noqa: E402
from pad.prompts import Asked, encode  # noqa: E402

SAMPLED = {"rm_weight": 0.5, "topk": 8, "mode": "topk", "sample_temp": 1.0}


def same(rows: list[dict]) -> list[tuple]:
    return [(row["prompt"], row["result"], row["n_tokens"]) for row in rows]


def words(tiny, *more, rm="rm", **how):
    """The options of a command without a configuration file."""
    found = options(tiny, *more, rm=rm, **how)
    at = found.index("--config")
    return found[:at] + found[at + 2 :]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class TestSweep:
    def test_preferences_times_weights_and_the_base_lm_alone(self, tiny, pad_folder, capsys):
        (pad_folder / "x.config").write_text('{"rm_weight": ["0.5", 2], "topk": 10, "name": "mine"}\n')
        (pad_folder / "p.txt").write_text("kind\nshort: brief, cheerful\n")
        assert collect(*options(tiny, "--principles_file", "p.txt")) == 0
        found = [rows_of(pad_folder / f"out/x_{number}.jsonl") for number in (0, 1, 2, 3, "baseline")]
        told = [{(row["preference"], row["rm_weight"], row.get("name")) for row in rows} for rows in found]
        assert told == [
            {("kind", 0.5, "mine")},
            {("kind", 2, "mine")},
            {("short", 0.5, "mine")},
            {("short", 2, "mine")},
            {("", 0, None)},
        ]
        assert {row["principles"] for row in found[2]} == {"brief and cheerful"} and "principles" not in found[4][0]
        assert found[2][0]["sys_prompt"] == from_principles("brief, cheerful").text and found[4][0]["sys_prompt"] == ""
        assert not (pad_folder / "out/x_4.jsonl").exists()
        assert "out/x_baseline.jsonl: 6 rows (base LM without a preference)" in capsys.readouterr().out
        # Each file is what a command of its own gives.
        (pad_folder / "one.config").write_text('{"rm_weight": 2, "topk": 10}')
        assert collect(*options(tiny, "--principles", "brief, cheerful", "--config", "one.config", out="out/y")) == 0
        assert same(rows_of(pad_folder / "out/y_0.jsonl")) == same(found[3])
        assert not (pad_folder / "out/y_baseline.jsonl").exists()
        assert collect(*words(tiny, "--rm_weight", 0, out="out/z", rm=None)) == 0
        assert same(rows_of(pad_folder / "out/z_0.jsonl")) == same(found[4])
        # A second command of the same settings finds everything done.
        before = {path: path.read_bytes() for path in (pad_folder / "out").glob("x_*.jsonl")}
        assert collect(*options(tiny, "--principles_file", "p.txt")) == 0
        assert before == {path: path.read_bytes() for path in before}
        (pad_folder / "p.txt").write_text("cruel\nshort: brief, cheerful\n")
        assert collect(*options(tiny, "--principles_file", "p.txt")) == 2
        assert "is of another run: line 1 answers another prompt" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "choice, more, there", [("auto", [1], False), ("on", [1], True), ("auto", [1, 2], True), ("off", [1, 2], False)]
    )
    def test_when_there_is_a_baseline(self, choice, more, there, tiny, pad_folder):
        assert collect(*words(tiny, "--baseline", choice, "--limit", 1, "--rm_weight", *more)) == 0
        assert (pad_folder / "out/x_baseline.jsonl").exists() == there

    def test_lines_of_several_weights_are_answered_as_they_are(self, tiny, pad_folder):
        """As the published grid_search.config has them."""
        write_rows(pad_folder / "x.config", [{"rm_weight": weight, "topk": 10} for weight in (0, 0.5)])
        assert collect(*options(tiny, "--limit", 1)) == 0
        assert sorted(path.name for path in (pad_folder / "out").glob("*.jsonl")) == ["x_0.jsonl", "x_1.jsonl"]

    def test_a_baseline_for_each_way_to_draw(self, tiny, pad_folder):
        lines = [SAMPLED, SAMPLED | {"rm_weight": 1, "sample_temp": 2.0}, {"rm_weight": 1, "topk": 4}]
        write_rows(pad_folder / "x.config", lines)
        assert collect(*options(tiny, "--baseline", "on", "--limit", 1)) == 0
        rows = [rows_of(pad_folder / f"out/x_{name}.jsonl")[0] for name in ("baseline", "baseline_1", "baseline_2")]
        assert [(row["config"]["mode"], row["config"]["sample_temp"]) for row in rows] == [
            ("topk", 1),
            ("topk", 2),
            ("greedy", None),
        ]

    def test_greedy_ones_have_one_whatever_their_seeds(self, tiny, pad_folder):
        write_rows(pad_folder / "x.config", [GREEDY | {"rm_weight": [1, 2], "seed": 1}, GREEDY | {"seed": 2}])
        assert collect(*options(tiny, "--limit", 1)) == 0
        assert sorted(path.name for path in (pad_folder / "out").glob("x_b*l")) == ["x_baseline.jsonl"]

    def test_a_perspective_and_several_preferences_are_refused(self, tiny, pad_folder, capsys):
        """Each would be answered by the perspective alone, and be called so."""
        write_rows(pad_folder / "x.config", [GREEDY | {"perspective": "funny"}])
        (pad_folder / "p.txt").write_text("kind\nbrief\n")
        assert collect(*options(tiny, "--principles_file", "p.txt")) == 2
        assert "perspective takes the place of the principles, and --principles_file gives several" in (
            capsys.readouterr().err
        )

    def test_options_that_do_nothing_are_said(self, tiny, pad_folder, capsys):
        asked = ["--prompt", "Who?", "--dataset", "other.json", "--max_new_token", 2, "--frame", "Be {principles}."]
        assert collect(*words(tiny, "--sys_prompt", "Be brief. ", *asked)) == 0
        said = capsys.readouterr().err
        assert "--prompt is answered, and nothing of --dataset" in said and "--frame is not used" in said


class TestRows:
    def test_their_own_preferences(self, tiny, pad_folder, capsys):
        """A row's preference gives what the option gives, and the baseline has none of it."""
        rows = [
            {"prompt": "A cat", "principles": "kind"},
            {"prompt": "Who?"},
            {"prompt": "Ha", "sys_prompt": "Be a poet."},
        ]
        write_rows(pad_folder / "mine.jsonl", rows)
        assert collect(*words(tiny, "--dataset", "mine.jsonl", "--principles", "brief", "--baseline", "on")) == 0
        assert "2 of 3 prompts have a preference of their own (the first: 1)" in capsys.readouterr().err
        found, alone = (rows_of(pad_folder / f"out/x_{name}.jsonl") for name in ("0", "baseline"))
        assert [row["preference"] for row in found] == ["kind", "brief", "Be a poet."]
        assert [row["sys_prompt"] for row in alone] == [""] * 3
        for number, option in enumerate(
            (["--principles", "kind"], ["--principles", "brief"], ["--sys_prompt", "Be a poet. "])
        ):
            assert collect(*words(tiny, *option, "--prompt", rows[number]["prompt"], out=f"out/{number}")) == 0
            assert same(rows_of(pad_folder / f"out/{number}_0.jsonl")) == [same(found)[number]]

    def test_they_and_several_preferences_are_refused(self, tiny, pad_folder, capsys):
        write_rows(pad_folder / "mine.jsonl", [{"prompt": "A cat"}, {"prompt": "Who?", "principles": "kind"}])
        (pad_folder / "p.txt").write_text("brief\ncheerful\n")
        assert collect(*words(tiny, "--dataset", "mine.jsonl", "--principles_file", "p.txt")) == 2
        said = capsys.readouterr().err
        assert (
            "1 of 2 prompts have a preference of their own (the first: 2), and --principles_file gives several" in said
        )
        assert not (pad_folder / "out").exists()

    def test_a_conversation(self, tiny, pad_folder):
        turns = [("system", "Be a poet."), ("user", "Who?"), ("assistant", "A cat."), ("user", "Why?")]
        messages = [{"role": role, "content": text} for role, text in turns]
        write_rows(pad_folder / "mine.jsonl", [{"messages": messages}])
        assert collect(*words(tiny, "--dataset", "mine.jsonl")) == 0
        (row,) = rows_of(pad_folder / "out/x_0.jsonl")
        tokenizer = load_tokenizer(str(tiny / "lm"))
        assert row["n_prompt_tokens"] == len(encode(tokenizer, messages, True))
        assert row["instruction"] == "\n\nHuman: Who?\n\nAssistant: A cat.\n\nHuman: Why?\n\nAssistant:"
        assert row["preference"] == "Be a poet."
        # Without a template the models read the dialogue.
        assert collect(*words(tiny, "--dataset", "mine.jsonl", "--chat_template", "off", out="out/y")) == 0
        (row,) = rows_of(pad_folder / "out/y_0.jsonl")
        assert row["n_prompt_tokens"] == len(tokenizer(row["prompt"])["input_ids"])

    def test_outputs_of_conversations_are_conversations_again(self, tiny, pad_folder):
        user, answered = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cat."}
        system = {"role": "system", "content": "Be a poet."}
        write_rows(
            pad_folder / "mine.jsonl",
            [
                {"messages": [system, user, answered, user]},
                {"messages": [system, user]},
                {"messages": [answered, user]},
                "Ha",
            ],
        )
        said = ["--rm_weight", 1, "--baseline", "on"]
        assert collect(*words(tiny, "--dataset", "mine.jsonl", "--principles", "kind", *said)) == 0
        for name in ("0", "baseline"):
            first = rows_of(pad_folder / f"out/x_{name}.jsonl")
            assert collect(*words(tiny, "--dataset", f"out/x_{name}.jsonl", *said, out=f"out/{name}")) == 0
            again = rows_of(pad_folder / f"out/{name}_{name}.jsonl")
            kept = ("prompt", "result", "preference", "messages", "n_prompt_tokens")
            assert [[row.get(key) for key in kept] for row in again] == [
                [row.get(key) for key in kept] for row in first
            ]
        assert [bool(row.get("messages")) for row in first] == [True, False, True, False]

    def test_a_template_that_leaves_system_turns_out(self, tiny, pad_folder, capsys):
        template = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
        assert template != CHAT_TEMPLATE
        for name, seed in (("deaf", 1), ("deaf_rm", 3)):
            save(pad_folder / name, make_model("llama", seed), make_tokenizer(template=template))
        models = ["--llm", pad_folder / "deaf", "--rm", pad_folder / "deaf_rm"]
        messages = [{"role": "system", "content": "Be a poet."}, {"role": "user", "content": "Who?"}]
        write_rows(pad_folder / "mine.jsonl", [{"messages": messages}])
        assert collect(*words(tiny, "--dataset", "mine.jsonl", *models)) == 0
        assert (
            "system turns of 1 rows (the first: 1) are put before the first words of the user"
            in capsys.readouterr().err
        )
        assert collect(*words(tiny, "--prompt", "Who?", "--sys_prompt", "Be a poet. ", *models, out="out/y")) == 0
        assert same(rows_of(pad_folder / "out/x_0.jsonl")) == same(rows_of(pad_folder / "out/y_0.jsonl"))
        assert collect(*words(tiny, "--principles", "kind", "--preference_as", "system", *models, out="out/z")) == 2
        assert (
            "--preference_as system: the chat template of the base LM writes no system turn" in capsys.readouterr().err
        )
        assert (
            collect(
                *words(tiny, "--principles", "kind", "--preference_as", "system", "--chat_template", "off", out="out/z")
            )
            == 2
        )
        assert "--preference_as system: no chat template is used" in capsys.readouterr().err

    def test_the_preference_as_system_turn(self, tiny, pad_folder, capsys):
        asked = ["--prompt", "Who?", "--principles", "kind", "--preference_as", "system"]
        assert collect(*words(tiny, *asked)) == 0
        (row,) = rows_of(pad_folder / "out/x_0.jsonl")
        turns = Asked("Who?").turns(from_principles("kind").text, system=True)
        assert row["n_prompt_tokens"] == len(encode(load_tokenizer(str(tiny / "lm")), turns, True))
        assert collect(*words(tiny, *asked[:4])) == 2
        assert "--preference_as was 'system', is 'prompt'" in capsys.readouterr().err


class TestPrompts:
    def test_on_the_screen_alone(self, tiny, pad_folder, capsys):
        asked = [word for word in words(tiny, "--prompt", "Who?", "--prompt", "A cat", "--principles", "kind")]
        at = asked.index("--out_file")
        assert collect(*asked) == 0
        rows = rows_of(pad_folder / "out/x_0.jsonl")
        before = sorted(path.name for path in pad_folder.iterdir())
        capsys.readouterr()
        assert collect(*asked[:at], *asked[at + 2 :]) == 0
        said = capsys.readouterr().out
        for row in rows:
            assert f"[kind, weight 1] {row['instruction']}\n{visible(row['result'].strip())}\n" in said
        assert before == sorted(path.name for path in pad_folder.iterdir()) and "/answers" not in said

    def test_answers_send_no_signals_to_the_screen(self, tiny, pad_folder, capsys):
        asked = ["--prompt", "\x1b[31mWho?", "--principles", "kind\x1b[2J", "--baseline", "on"]
        at = words(tiny).index("--out_file")
        assert collect(*words(tiny, *asked)[:at], *words(tiny, *asked)[at + 2 :]) == 0
        assert "\x1b" not in capsys.readouterr().out

    def test_without_any_option(self, capsys):
        with pytest.raises(SystemExit) as ended:
            collect()
        assert ended.value.code == 2
        assert "python collect_model_outs.py --llm" in "".join(capsys.readouterr())

    @pytest.mark.parametrize(
        "more, said",
        [
            (["--prompt", " "], "--prompt is empty"),
            (["--principles", ","], "--principles: "),
            (["--principles", "a", "--sys_prompt", "b"], "--sys_prompt and --principles both name a preference"),
            (["--principles_file", "no.txt"], "--principles_file no.txt cannot be read"),
            (["--principles", "a", "--frame", "Be it"], "--frame needs {principles}"),
            (["--config", "x.config", "--topk", 5], "--rm_weight and --topk stand for a --config file"),
            (["--principles_file", ""], "--principles_file names a file"),
            (["--config", ""], "--config names a file"),
            (["--rm_weight", "nan"], "--rm_weight is a number"),
            (["--rm_weight", 1, "--rm_weight", 2, "1.0"], "--rm_weight names each weight once; it is [1.0, 2.0, 1.0]"),
            (["--topk", 0], "--topk must be at least 1"),
            (["--stop", ""], "--stop is a text that ends an answer"),
            (["--answers", 2], "--answers 2 is for configurations that draw"),
            (["--answers", 0], "--answers must be at least 1"),
            (["--baseline", "maybe"], "--baseline has no choice 'maybe'"),
            (["--device_map", "auto", "--engine", "graphs"], "leave out --device_map auto"),
        ],
    )
    def test_what_cannot_be(self, more, said, tiny, pad_folder, capsys):
        assert collect(*words(tiny, *more)) == 2
        assert said in capsys.readouterr().err and not (pad_folder / "out").exists()

    def test_a_limit_beyond_the_context_is_said(self, tiny, pad_folder, capsys):
        assert collect(*words(tiny, "--max_new_token", 100_000, "--limit", 2, "--stop", "e", "--stop", "a")) == 0
        said = capsys.readouterr().err
        assert "--max_new_token 100000 goes beyond the context of the models" in said and "2 of 2 answers" in said


class TestEndings:
    def test_answers_stop_where_a_text_begins(self, tiny, pad_folder):
        assert collect(*words(tiny, out="out/whole")) == 0
        whole = rows_of(pad_folder / "out/whole_0.jsonl")
        texts = sorted({row["result"][at : at + 2] for row in whole for at in range(3, len(row["result"]) - 2)})
        for stops in (texts[:1], texts[-1:], texts[::7]):
            more = [word for text in stops for word in (f"--stop={text}",)]
            assert collect(*words(tiny, "--overwrite", "--batch_size", 4, *more)) == 0
            for row, before in zip(rows_of(pad_folder / "out/x_0.jsonl"), whole, strict=True):
                places = [at for text in stops if (at := before["result"].find(text)) >= 0]
                assert row["result"] == before["result"][: min(places, default=None)]
                assert row["response"] == row["prompt"] + row["result"]
                assert row["n_tokens"] <= before["n_tokens"]
                assert not places or row["finish_reason"] == "stop"

    def test_several_answers_to_each_prompt(self, tiny, pad_folder, capsys):
        write_rows(pad_folder / "x.config", [SAMPLED])
        assert collect(*options(tiny, "--limit", 2, out="out/one")) == 0
        assert collect(*options(tiny, "--limit", 2, "--answers", 3, "--batch_size", 4)) == 0
        rows = rows_of(pad_folder / "out/x_0.jsonl")
        assert [(row["index"], row["sample"]) for row in rows] == [(i, k) for i in range(2) for k in range(3)]
        assert len({row["result"] for row in rows}) > 2
        assert same(rows[::3]) == same(rows_of(pad_folder / "out/one_0.jsonl"))  # the first is what one alone is
        # A killed run goes on, and what is there may not be more than is wanted.
        path = pad_folder / "out/x_0.jsonl"
        path.write_text("".join(line for line in path.read_text().splitlines(keepends=True)[:4]))
        assert collect(*options(tiny, "--limit", 2, "--answers", 3)) == 0
        assert without_times(rows_of(path)) == without_times(rows)
        assert collect(*options(tiny, "--limit", 2, "--answers", 2)) == 2
        assert "line 3 is answer 3 to a prompt, more than --answers has now" in capsys.readouterr().err


def test_letters_of_other_alphabets_are_readable(tiny, pad_folder):
    asked = "Wer wäscht die Wäsche? 誰？ \u2028 \x85"
    assert collect(*words(tiny, "--prompt", asked, "--principles", "höflich")) == 0
    text = (pad_folder / "out/x_0.jsonl").read_text(encoding="utf-8")
    assert "Wäsche? 誰？" in text and "höflich" in text and len(text.splitlines()) == 1
    assert json.loads(text)["instruction"] == asked


def test_device_map_auto_where_there_is_one_place(tiny, pad_folder):
    assert collect(*words(tiny, "--device_map", "auto", "--limit", 2)) == 0
    assert collect(*words(tiny, "--limit", 2, out="out/y")) == 0
    assert same(rows_of(pad_folder / "out/x_0.jsonl")) == same(rows_of(pad_folder / "out/y_0.jsonl"))
