import json
import subprocess

import pytest

from command.errors import OptionError
from pad.config import DecodingConfig, read_configs

ONE = {"rm_weight": 1.0, "topk": 10, "mode": "greedy", "sample_temp": None}
# The published README's command, whose first key lacks a quote.
SEED_ECHO = """echo '{rm_weight": 1.0, "topk": 10, "mode": "greedy", "sample_temp": null}' > example.config"""


def read(tmp_path, text: str) -> tuple[list[DecodingConfig], list[str]]:
    path, said = tmp_path / "x.config", []
    path.write_text(text)
    return read_configs(path, said.append), said


class TestForms:
    @pytest.mark.parametrize(
        "text",
        [
            f"{json.dumps(ONE)}\n{json.dumps(ONE | {'topk': 3})}\n",
            f"\n{json.dumps(ONE)}\n\n   \n{json.dumps(ONE | {'topk': 3})}",
            json.dumps([ONE, ONE | {"topk": 3}]),
            json.dumps([ONE, ONE | {"topk": 3}], indent=2),
            f"# first\n{json.dumps(ONE, indent=1)}\n# second\n{json.dumps(ONE | {'topk': 3})}  # the end",
            f"\ufeff{json.dumps(ONE)}\r\n{json.dumps(ONE | {'topk': 3})}\r\n",
        ],
        ids=["lines", "blank lines", "array", "long array", "object over lines, comments", "BOM and CRLF"],
    )
    def test_two_configurations(self, tmp_path, text):
        configs, said = read(tmp_path, text)
        assert [config.written() for config in configs] == [ONE, ONE | {"topk": 3}] and not said

    def test_only_two_keys_are_needed(self, tmp_path):
        [config], _ = read(tmp_path, '{"rm_weight": 0, "topk": 1}')
        assert (config.mode, config.temperature, config.chunk, config.samples) == ("greedy", 0.7, 1, False)

    def test_the_echo_of_the_published_readme(self, tmp_path):
        subprocess.run(SEED_ECHO, shell=True, cwd=tmp_path, check=True)
        said = []
        [config] = read_configs(tmp_path / "example.config", said.append)
        assert config.written() == ONE
        assert len(said) == 1 and "line 1: keys need quotes" in said[0] and json.dumps(ONE) in said[0]

    @pytest.mark.parametrize(
        "line", ["{rm_weight: 1, topk: 2}", "{'rm_weight': 1, \"topk\": 2}", '{rm_weight": 1, topk": 2}']
    )
    def test_other_keys_without_quotes(self, tmp_path, line):
        [config], said = read(tmp_path, f'{json.dumps(ONE)[:-1]}, "name": "a, b: c"}}\n{line}')[0][1:], []
        assert (config.rm_weight, config.topk) == (1, 2) and not said

    def test_texts_that_look_like_keys_stay(self, tmp_path):
        text = json.dumps(ONE | {"perspective": "kind, funny: both {x: 1}"})
        [config], said = read(tmp_path, text)
        assert config.perspective == "kind, funny: both {x: 1}" and not said

    def test_names_of_greedy_search(self, tmp_path):
        configs, _ = read(tmp_path, json.dumps([ONE | {"mode": m} for m in ("greedy_large", "greedy-large", "topk")]))
        assert [config.samples for config in configs] == [False, False, True]
        chunks = [DecodingConfig(1, 10, chunk_size=chunk).chunk for chunk in (None, "auto", 3, 99)]
        assert chunks == [10, 10, 3, 10]


class TestErrors:
    @pytest.mark.parametrize(
        "text, message",
        [
            ("", "holds no configuration"),
            ("rm_weight = 1", "line 1: not JSON"),
            (f"{json.dumps(ONE)}\n\n{{oops", "line 3: not JSON"),
            (f"{json.dumps(ONE)}\n[1]", "line 2: a configuration is a JSON object, not 1"),
            ('{"topk": 3}', "line 1: 'rm_weight' is missing"),
            (
                json.dumps(ONE | {"top_k": 3}),
                "line 1: 'top_k' is no key of a configuration; there are: rm_weight, topk",
            ),
            (
                json.dumps(ONE | {"mode": "p_sigmoid_mixing"}),
                "mode must be one of greedy, topk, greedy_large, greedy-large",
            ),
            (json.dumps(ONE | {"mode": 3}), "mode must be one of"),
            (json.dumps(ONE | {"topk": 0}), "topk must be a whole number from 1; it is 0"),
            (json.dumps(ONE | {"topk": 1.5}), "topk must be a whole number"),
            (json.dumps(ONE | {"topk": True}), "topk must be a whole number"),
            (json.dumps(ONE | {"rm_weight": "one"}), "rm_weight must be a finite number"),
            (json.dumps(ONE | {"rm_weight": "nan"}), "rm_weight must be a finite number"),
            (json.dumps(ONE | {"rm_weight": []}), "rm_weight is an empty list"),
            (json.dumps(ONE | {"rm_weight": [1, [2]]}), "rm_weight must be a finite number"),
            ('{"rm_weight": NaN, "topk": 1}', "rm_weight must be a finite number"),
            (f'{{"rm_weight": 1{"0" * 400}, "topk": 1}}', "rm_weight must be a finite number"),
            (f'{{"rm_weight": 1, "topk": 1{"0" * 5000}}}', "line 1: cannot be read"),
            ("[" * 100_000, "line 1: cannot be read"),
            (json.dumps(ONE | {"sample_temp": 0}), "sample_temp must be a number above 0"),
            (json.dumps(ONE | {"seed": -1}), "seed must be a whole number"),
            (json.dumps(ONE | {"chunk_size": "big"}), "chunk_size must be a whole number"),
            (json.dumps(ONE | {"perspective": 3}), "perspective must be a text"),
        ],
    )
    def test_what_is_wrong_and_where(self, tmp_path, text, message):
        with pytest.raises(OptionError) as error:
            read(tmp_path, text)
        assert message in str(error.value) and "x.config" in str(error.value)

    def test_files_that_cannot_be_read(self, tmp_path):
        (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
        for name in ("nothing", "bytes", "."):
            with pytest.raises(OptionError, match="cannot be read"):
                read_configs(tmp_path / name, print)
