import gzip
import json

import pytest

from datasets_loader import DataError
from pad.prompt_sets import load_prompts as load_asked
from pad.rows import read_rows

ROWS = [{"prompt": "Who?", "n": 1}, {"prompt": "Why, [1]?", "n": 2}]


def load_prompts(*args, **more) -> list[str]:
    asked = load_asked(*args, **more)
    assert all(not one.before and one.preference is None for one in asked)
    return [one.words for one in asked]


def ignore(message: str) -> None:
    raise AssertionError(message)


class TestRows:
    @pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
    @pytest.mark.parametrize("array", [True, False])
    def test_arrays_and_lines_by_any_suffix(self, tmp_path, name, array):
        lines = "".join(json.dumps(row) + "\n\n" for row in ROWS)
        (tmp_path / name).write_text("\n" + (json.dumps(ROWS, indent=1) if array else lines))
        assert read_rows(tmp_path / name, ignore) == ROWS

    def test_gzip_and_the_other_suffix(self, tmp_path):
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
        assert read_rows(tmp_path / "a.jsonl.gz", ignore) == ROWS[:1]
        (tmp_path / "b.jsonl").write_text(json.dumps(ROWS))
        said = []
        assert read_rows(tmp_path / "b.json", said.append) == ROWS and "reading" in said[0]

    def test_a_torn_last_line(self, tmp_path):
        (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"prom')
        said = []
        assert read_rows(tmp_path / "a.jsonl", said.append) == ROWS[:1] and "line 2: torn" in said[0]

    @pytest.mark.parametrize(
        "text, message", [('{"a": 1}\nb\n', "line 2: not a line of JSON"), ("[1, ", "not a JSON array")]
    )
    def test_other_files(self, tmp_path, text, message):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            read_rows(tmp_path / "a.jsonl", ignore)
        with pytest.raises(DataError, match="no file"):
            read_rows(tmp_path / "c.jsonl", ignore)


class TestPrompts:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def write(self, path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def test_files_of_ones_own(self, folder):
        (folder / "a.txt").write_text("One?\n\nTwo?\n")
        (folder / "b.json").write_text('["One?", {"prompt": "Two?"}]')
        assert load_prompts("a.txt", say=ignore) == load_prompts("b.json", say=ignore) == ["One?", "Two?"]
        (folder / "c.jsonl").write_text('{"prompt": "One?"}\n{"question": "Two?"}\n')
        with pytest.raises(DataError, match=r"c\.jsonl, row 2"):
            load_prompts("c.jsonl", say=ignore)
        for name in ("d.txt", "d.json", "nothing", "nobody/nothing"):
            with pytest.raises(DataError, match="d.txt cannot be read|no file d.json|no data set is called"):
                load_prompts(name, say=ignore)

    @pytest.mark.parametrize(
        "percent, limit, expected",
        [(100, None, 10), (25, None, 2), (29.9, None, 2), (1, None, 1), (100, 3, 3), (50, 9, 5)],
    )
    def test_a_part_of_them(self, folder, percent, limit, expected):
        self.write(folder / "a.jsonl", [f"{i}?" for i in range(10)])
        assert load_prompts("a.jsonl", run_percent=percent, limit=limit, say=ignore) == [
            f"{i}?" for i in range(expected)
        ]

    def test_psoups_from_the_users_file_or_our_own_sample(self, folder):
        said = []
        assert len(load_prompts("psoups", say=said.append)) == 8 and "not comparable" in said[0]
        (folder / "data").mkdir()
        (folder / "data/koala_eval_50.json").write_text(json.dumps([{"id": "0", "prompt": "A\\nB?"}]))
        assert load_prompts("psoups", say=ignore) == ["A\\nB?"]
        self.write(folder / "d/psoups/koala_eval_50.jsonl", [{"id": "1", "prompt": "C?"}])
        assert load_prompts("psoups", data_dir=folder / "d", say=ignore) == ["C?"]

    @pytest.mark.parametrize("prompt", [5, None, "", " "])
    def test_prompts_of_a_set_that_are_no_texts(self, prompt, folder):
        self.write(folder / "data/psoups.jsonl", [{"prompt": "A?"}, {"prompt": prompt}])
        with pytest.raises(DataError, match="psoups.jsonl: a prompt is (.*, not a text|empty)"):
            load_prompts("psoups", say=ignore)

    def test_halves_of_characters(self, folder):
        self.write(folder / "a.jsonl", ["A?", "\ud83d?"])
        said = []
        assert load_prompts("a.jsonl", say=said.append) == ["A?", "\ufffd?"]
        assert said == ["warning: a.jsonl: 1 prompts hold half a character, which is read as U+FFFD; the first: 2"]

    def test_steers_is_each_short_prompt_once(self, folder):
        """Rows come in pairs of one prompt: every second one from the second on, as published, gives the same list."""
        texts = ["Short?", "x" * 101, "y" * 100, "Another?"]
        rows = [{"prompt": text, "response": str(i)} for text in texts for i in range(2)]
        self.write(folder / "steers/validation.jsonl", rows)
        published = [row["prompt"] for row in rows if len(row["prompt"]) <= 100][1::2]
        assert load_prompts("steers", data_dir=folder, say=ignore) == published == ["Short?", "y" * 100, "Another?"]

    def test_the_sets_of_args(self, folder):
        self.write(folder / "Dahoas/full-hh-rlhf/test.jsonl", [{"prompt": "\n\nHuman: A?\n\nAssistant:"}])
        assert load_prompts("Dahoas/full-hh-rlhf", data_dir=folder, say=ignore) == ["\n\nHuman: A?\n\nAssistant:"]
        rows = [{"post_id": p, "history": h} for p, h in (("a", "A?"), ("a", "A2?"), ("b", "B?"))]
        self.write(folder / "stanfordnlp/SHP/validation.jsonl", rows)
        options = {"data_dir": folder, "say": ignore}
        expected = [" Human: A? Assistant: ", " Human: B? Assistant: "]
        assert load_prompts("stanfordnlp/SHP", split="validation", **options) == expected

    def test_other_schemas_and_no_hub(self, folder, monkeypatch):
        self.write(folder / "steers/validation.jsonl", [{"question": "A?"}])
        with pytest.raises(DataError, match="not in the schema of steers"):
            load_prompts("steers", data_dir=folder, say=ignore)
        import datasets

        def no_hub(*_, **__):
            raise ConnectionError("no route")

        monkeypatch.setattr(datasets, "load_dataset", no_hub)
        with pytest.raises(DataError, match="nvidia/HelpSteer2 .*cannot be loaded .*no route.*--data_dir"):
            load_prompts("steers", say=ignore)
