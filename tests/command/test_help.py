"""What --help, --help_all and no options at all say, of every command."""

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.help import HelpfulParser, says_something
from command.options import Parser
from command.provenance import version
from experiment.command_line import parse_settings

REPOSITORY = Path(__file__).resolve().parents[2]
# The modules whose `main` is a command.
COMMANDS = (
    "run_api",
    "serve_nudged",
    "eval_utils",
    "collect_model_outs",
    "measure_reward",
    "analysis.command",
    "cluster.find_threshold",
    "cluster.paper_table",
    "cluster.serve_models",
    "cluster.sweep",
    "demo.fetch",
    "experiment.merge",
    "pad.fit_scorer",
    "reporting.demo_screen",
    "reporting.html_report",
    "reporting.table",
)
TWO_SCREENS = 80


def lines_on(width: int, text: str) -> int:
    """How many lines a text takes in a terminal."""
    return sum(max(1, -(-len(line) // width)) for line in text.splitlines())


class Found(Exception):
    """The parser of a command."""


def parser_of(module: str) -> HelpfulParser:
    """A command's parser, as its main has built it."""

    def find(parser, args=None, namespace=None):
        raise Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HelpfulParser, "parse_known_args", find)
        patch.setattr(Parser, "parse_known_args", find)
        with pytest.raises(Found) as found:
            import_module(module).main(["--help"])
    return found.value.args[0]


@pytest.fixture(params=COMMANDS)
def parser(request):
    return parser_of(request.param)


def shown_actions(parser: HelpfulParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.help is not argparse.SUPPRESS]


def entry(action: argparse.Action, text: str) -> str | None:
    """What a help says of an option or argument, as one line; None where it does not name it."""
    name = action.option_strings[0] if action.option_strings else action.metavar or action.dest
    found = re.search(rf"(?m)^  {re.escape(name)}(?=[ ,\n]).*(?:\n {{4,}}.*)*", text)
    return found and " ".join(found[0].split())


def test_every_command_is_looked_at():
    building = re.compile(r"(?m)= (?:Plain)?Parser\(")
    rooms = [path for path in REPOSITORY.glob("*/*.py") if path.parts[-2] not in ("tests", "benchmarks", "command")]
    files = {path.relative_to(REPOSITORY) for path in [*REPOSITORY.glob("*.py"), *rooms]}
    made = {file for file in files if building.search((REPOSITORY / file).read_text(encoding="utf-8"))}
    elsewhere = {  # the parser of a command whose main is another file
        Path("experiment/command_line.py"): "run_api",
        Path("serving/settings.py"): "serve_nudged",
        Path("pad/collect_options.py"): "collect_model_outs",
        Path("pad/measure_options.py"): "measure_reward",
        Path("analysis/settings.py"): "analysis.command",
    }
    assert len(made) > 12
    assert {elsewhere.get(file) or ".".join(file.with_suffix("").parts) for file in made} == set(COMMANDS)


@pytest.mark.parametrize("width", [80, 100])
def test_help_takes_two_screens_at_most(parser, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert lines_on(width, parser.format_help()) <= TWO_SCREENS


def test_help_all_names_every_option_and_help_says_how_many_more_there_are(parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    short, whole = parser.format_help(), parser.format_help(everything=True)
    actions = shown_actions(parser)
    assert [action.dest for action in actions if entry(action, whole) is None] == []
    missing = [action for action in actions if entry(action, short) is None and action not in _of_help(parser)]
    assert not any(action.required for action in missing)
    told = re.search(r"(?m)^(\d+) more options?: \S+ --help_all", short)
    assert (int(told[1]) if told else 0) == len(missing)


def _of_help(parser: HelpfulParser) -> list[argparse.Action]:
    return parser._help_group._group_actions


def test_every_option_is_described_with_its_default(parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    whole = parser.format_help(everything=True)
    for action in shown_actions(parser):
        said = entry(action, whole)
        assert action.help, action.dest
        if says_something(action.default):
            shown = action.default if isinstance(action.default, list | tuple) else [action.default]
            default = re.search(r"\(default: (.*)\)", said)
            assert default and all(str(part).removeprefix(f"{REPOSITORY}/") in default[1] for part in shown), said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help", "--help_all"])
def test_commands_show_help(command, option, capsys):
    with pytest.raises(SystemExit) as end:
        import_module(command).main([option])
    printed = capsys.readouterr()
    assert (end.value.code, printed.err) == (0, "")
    assert printed.out == parser_of(command).format_help(everything=option == "--help_all")


@pytest.mark.parametrize("command", ["run_api", "measure_reward", "cluster.serve_models"])
def test_commands_tell_their_version(command, capsys):
    with pytest.raises(SystemExit) as end:
        import_module(command).main(["--version"])
    printed = capsys.readouterr()
    assert (end.value.code, printed.err) == (0, "")
    assert re.fullmatch(rf"\S+ {re.escape(version())}( \(commit \S+\))?\n", printed.out)


@pytest.mark.parametrize(
    "command",
    ["run_api", "serve_nudged", "eval_utils", "cluster.find_threshold", "cluster.serve_models", "cluster.sweep"],
)
def test_without_options_commands_say_what_to_do(command, capsys):
    with pytest.raises(SystemExit) as end:
        import_module(command).main([])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert "--help" in printed.err and printed.err.count("\n") <= 12


def test_commands_that_work_without_options_do():
    for command in ("demo.fetch", "cluster.paper_table"):
        assert parser_of(command).parse_args([])


def examples(text: str) -> list[list[str]]:
    joined = text.replace("\\\n", " ")
    return [line.split()[2:] for line in joined.splitlines() if line.strip().startswith("python run_api.py --exp")]


def test_the_examples_of_run_api_are_command_lines(capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        parse_settings([])
    told = examples(capsys.readouterr().err)
    monkeypatch.setenv("COLUMNS", "300")
    shown = examples(parser_of("run_api").format_help())
    assert len(told) == 2 and len(shown) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("question,answer\nWhat?,A\n")
    (tmp_path / "scripts/demo_data").mkdir(parents=True)
    assert [parse_settings(words).exp for words in told + shown] == ["nudging"] * 3 + ["base_only", "nudging"]


def test_the_published_defaults_hold_once_an_option_is_given():
    settings = parse_settings(["--nudging_model", "demo-aligned"])
    assert (settings.exp, settings.dataset_name, settings.top_prob_thres) == ("nudging_only", "gsm8k", 0.3)


NAMES = st.from_regex(r"[a-z]{3,8}", fullmatch=True).filter(lambda name: name not in ("help", "version"))
DEFAULTS = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text("a%b{}", max_size=4), st.just(False))


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(["", "one", "two"]), st.booleans(), DEFAULTS), max_size=12))
def test_rare_options_are_shown_by_help_all_alone(options):
    parser = Parser(prog="p", allow_abbrev=False)
    groups = {"": parser} | {title: parser.add_argument_group(title) for title in ("one", "two")}
    for name, (group, rare, default) in options.items():
        groups[group].add_argument(f"--{name}", default=default, help=f"about {name}", rare=rare)
    short, whole = parser.format_help(), parser.format_help(everything=True)
    for action in parser._actions:
        if action.dest in options:
            _, rare, default = options[action.dest]
            assert (entry(action, short) is None) == rare
            said = entry(action, whole)
            assert (f"(default: {' '.join(str(default).split())}" in said) == says_something(default), said
    rare = sum(rare for _, rare, _ in options.values())
    assert ("p --help_all" in short) == bool(rare)
    assert vars(parser.parse_args([])) == {name: default for name, (_, _, default) in options.items()}
    given_all = [word for name in options for word in (f"--{name}", "x")]
    assert vars(parser.parse_args(given_all)) == dict.fromkeys(options, "x")
