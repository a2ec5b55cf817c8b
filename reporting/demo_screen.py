"""What scripts/demo.sh shows at its end: one question answered without and with nudging, and a table of all answers.

    python scripts/demo_screen.py outputs/demo/justeval

What models have written is shown as text alone: control characters as escapes, and nothing of it is read as mark-up.
"""

from collections.abc import Callable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from command.console import Command, visible
from command.options import Parser
from command.paths import user_path
from demo.catalogue import DEMO_MODELS
from reporting.demo_scores import (
    COLUMNS,
    MEASURES,
    Demo,
    ended,
    is_good,
    nudging_share,
    paired_difference,
    read_demo,
    repeats,
    share,
    written,
)
from reporting.html_report import pieces_by_turns

NUDGED_STYLE = "bold yellow"
WIDEST = 110
SIDE_BY_SIDE = 64  # columns of a terminal from which two answers stand beside each other
SHOWN_LINES = 8  # of an answer that runs on
USUAL_TIMES_LARGER = 5


def shown_number(demo: Demo) -> tuple[int, str]:
    """Which question is shown, by its place from 0, and the rule that chose it."""
    for number, record in enumerate(demo.records["nudging"]):
        words = pieces_by_turns(record)
        if is_good(record) and "".join(words[::2]).strip() and "".join(words[1::2]).strip():
            return number, "the first whose nudged answer is good in all three, see below, and has words of both models"
    return 0, "the first of all, since no nudged answer is good in all three, see below, with words of both models"


def answer_text(record: dict, coloured: bool) -> Text:
    """An answer with the nudging model's words marked: by colour, or [so]."""
    text = Text(overflow="fold")
    for number, piece in enumerate(pieces_by_turns(record)):
        words = piece.strip()
        if number % 2 or not words:
            text.append(visible(piece))
            continue
        before, _, after = piece.partition(words)
        text.append(visible(before))
        text.append(visible(words) if coloured else f"[{visible(words)}]", NUDGED_STYLE)
        text.append(visible(after))
    text.rstrip()
    return text if text.plain else Text("(empty)", "dim")


def shortened(text: Text, console: Console, width: int) -> Text:
    """A text as lines of a width, the first ones alone where there are many."""
    lines = text.wrap(console, width, overflow="fold")
    shown = Text("\n").join(lines[: SHOWN_LINES + (len(lines) == SHOWN_LINES + 1)])
    if len(lines) > SHOWN_LINES + 1:
        shown.append(f"\n... ({len(lines) - SHOWN_LINES} more lines)", "dim")
    return shown


def what_to_look_at(demo: Demo, number: int) -> str:
    """One sentence on the shown question."""
    base, nudged = demo.records["base_only"][number], demo.records["nudging"][number]
    alone = "ends by itself" if ended(base) else "runs on until it is cut off"
    alone += " and repeats itself" if repeats(written(base)) else ""
    helped, places = ("ends by itself", "beginning and end") if ended(nudged) else ("is cut off as well", "beginning")
    threshold = demo.runs["nudging"].threshold
    return (
        f"Look at how the answers end: the base model alone {alone}; nudged, it {helped}, with the nudging model's words at the "
        f"{places} and wherever the base model gave its most probable next token a probability below "
        f"{'the threshold' if threshold is None else f'{threshold:g}'}."
    )


def example(demo: Demo, console: Console) -> None:
    """Print the shown question with the base model's answer beside the nudged one."""
    coloured = console.color_system is not None and not console.no_color
    number, rule = shown_number(demo)
    base, nudged = (demo.records[kind][number] for kind in ("base_only", "nudging"))
    console.print(Text(visible(nudged["question"]), "bold", overflow="fold"))
    gold = visible(nudged["gold_answer"])
    place = f"question {number + 1} of {demo.questions}"
    console.print(Text(f"({place}: {rule}; right: {gold})", "dim", overflow="fold"))
    heading = Text("nudged, ")
    heading.append("nudging model's words" if coloured else "[nudging model's words]", NUDGED_STYLE)
    answers = [(Text("base model alone"), answer_text(base, coloured)), (heading, answer_text(nudged, coloured))]
    if console.width >= SIDE_BY_SIDE:
        table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
        for title, _ in answers:
            table.add_column(title, ratio=1, overflow="fold")
        table.add_row(*(shortened(text, console, console.width // 2 - 2) for _, text in answers))
        console.print(table)
    else:
        for title, text in answers:
            console.print(Text("\n== ") + title)
            console.print(shortened(text, console, console.width))
    console.print(Text("\n" + what_to_look_at(demo, number)))


def figures(demo: Demo) -> Table:
    """The table of all answers: a column for each run."""
    table = _table(
        f"{demo.questions} questions\n% (95 % interval)",
        [name.replace("model ", "model\n") if "model" in name else f"\n{name}" for name in COLUMNS.values()],
    )
    for name, measure in MEASURES.items():
        cells = []
        for kind in COLUMNS:
            found = share(demo.records[kind], measure)
            low, high = found.interval
            cells.append(f"{100 * found.count / found.n:.0f} ({100 * low:.0f} to {100 * high:.0f})")
        table.add_row(name, *cells)
    shares = [nudging_share(record) for record in demo.records["nudging"]]
    table.add_row("text by nudging model", "", "", f"{100 * sum(shares) / len(shares):.0f}")
    table.add_row("answers wholly by it", "", "", f"{100 * sum(share == 1 for share in shares) / len(shares):.0f}")
    paces = [demo.runs[kind].pace for kind in COLUMNS]
    at_a_time = {pace.at_a_time for pace in paces}
    side_by_side = f"\n({at_a_time.pop()} at a time)" if len(at_a_time) == 1 and None not in at_a_time else ""
    table.add_row(f"latency, s per answer{side_by_side}", *(_number(pace.latency) for pace in paces))
    table.add_row("answers per minute", *(_number(pace.answers_per_minute) for pace in paces))
    return table


def differences(demo: Demo) -> Table:
    """The table of paired differences between nudged answers and the others, in percentage points."""
    others = ("base_only", "nudging_only")
    table = _table("paired difference\nin points", [f"nudged minus\n{COLUMNS[kind]}" for kind in others])
    for name, measure in MEASURES.items():
        table.add_row(name, *(_difference(demo, kind, measure) for kind in others))
    return table


def _table(first: str, others: list[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f}"


def _difference(demo: Demo, kind: str, measure: Callable[[dict], bool]) -> str:
    found = paired_difference(demo.holds("nudging", measure), demo.holds(kind, measure))
    return "{:+.0f} ({:+.0f} to {:+.0f})".format(*(100 * x for x in found))


def verdict(demo: Demo) -> str:
    """What the differences in good answers come to, in words."""
    said = []
    for kind in ("base_only", "nudging_only"):
        _, low, high = paired_difference(demo.holds("nudging", is_good), demo.holds(kind, is_good))
        more = (
            "more good answers than"
            if low > 0
            else "fewer good answers than"
            if high < 0
            else "no certain difference to"
        )
        said.append(f"{more} the {COLUMNS[kind].replace('base', 'base model')}")
    return f"Nudged: {said[0]}; {said[1]}."


def models(demo: Demo) -> str:
    """Which models they are, and where both are bundled, what their sizes mean for the demo."""
    names = demo.runs["nudging"].models
    lines = [
        f"{role}: {visible(DEMO_MODELS[name].title if name in DEMO_MODELS else name)}"
        for role, name in zip(("base model", "nudging model"), names, strict=False)
    ]
    if len(names) == 2 and all(name in DEMO_MODELS for name in names):
        times = DEMO_MODELS[names[0]].size / DEMO_MODELS[names[1]].size
        if times < USUAL_TIMES_LARGER:
            lines.append(
                f"The base model's file is {times:.1f} times as large as the nudging model's; in the paper a base model is about "
                "ten times as large and knows more, which cannot show here."
            )
    return "\n".join(lines)


def show(demo: Demo, console: Console) -> None:
    """Print the whole screen."""
    example(demo, console)
    console.print()
    console.print(figures(demo))
    if demo.left_out:
        plural = "s" if demo.left_out > 1 else ""
        console.print(Text(f"{demo.left_out} question{plural} left out: a model failed on it in one of the runs"))
    console.print()
    console.print(differences(demo))
    console.print()
    console.print(Text(verdict(demo)))
    console.print(Text(models(demo), "dim", overflow="fold"))


def main(argv: list[str] | None = None) -> int:
    """Print the screen; returns the exit code: 0, or 2 if there is nothing whole to show."""
    parser = Parser(description="One question without and with nudging, and a table of all answers.")
    parser.add_argument("folder", type=user_path, help="the folder of the demo's results")
    options = parser.parse_args(argv)
    command = Command("demo_screen.py")
    return command.run(lambda: _screen(options.folder, command))


def _screen(folder: Path, command: Command) -> int:
    demo = read_demo(folder, command.note)
    console = Console(highlight=False, markup=False, emoji=False)
    if console.width > WIDEST:
        console.width = WIDEST
    show(demo, console)
    command.check_shown()
    return 0
