"""The 13 data sets of the nudging paper as one table, from the Hugging Face hub or from local files in the hub's schema."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from command.errors import UserError
from command.json_text import parsed
from command.network import check_certificates, proxy_for
from command.paths import decoded, is_file

SAMPLING_SEED = 609
REASONING_PROMPT = "Answer the question by walking through the reasoning steps."
INSTRUCTION_PROMPT = "You are a helpful assistant."


class DataError(UserError):
    """A data set cannot be read; the message says which, where and what to do."""


@dataclass(frozen=True)
class Example:
    """One question: `id` is its row in the split, `context` stands before the question in the prompt.

    Of questions of one's own (room questions/), `id` may be a text, `history` has the turns before the question as (role, text),
    and `columns` what else its row holds. `shots` are questions and answers that every prompt begins with (--few_shot).
    """

    id: int | str
    question: str
    gold: str
    context: str = ""
    history: tuple[tuple[str, str], ...] = ()
    shots: tuple[tuple[str, str], ...] = ()
    columns: dict = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class DataSet:
    """Where a data set is, how a row becomes a question, how it is asked and how its answers are scored.

    `read` turns a row of the hub's schema into (question, gold answer) or (question, gold answer, context).
    `splits` are the hub's, the one that experiments use first. `scoring` is "rule", "judge" or a tuple of just-eval's aspects.
    `reads` is the scorer (experiment/scorers.py) that stands in for the judge on request.
    `keeps_blanks`: questions and gold answers stay as they are, as published; in other data sets blanks at their ends are cut off.
    """

    hub_id: str
    read: Callable[[dict], tuple[str, ...]]
    splits: tuple[str, ...]
    config: str | None = None
    scoring: str | tuple[str, ...] = "rule"
    reads: str | None = None
    judge_model: str | None = None
    system_prompt: str = REASONING_PROMPT
    question_prefix: str = "Question: "
    keeps_blanks: bool = False

    @property
    def is_own(self) -> bool:
        """Whether these are questions of one's own, in the place of a data set."""
        return not self.hub_id


def _text(row: dict, column: str) -> str:
    """A column's text; ValueError for anything else, which Python's formatting would take for text."""
    if not isinstance(row[column], str):
        raise ValueError(f"{column} is {row[column]!r}, no text")
    return row[column]


def _text_or_number(row: dict, column: str) -> str:
    number = isinstance(row[column], int | float) and not isinstance(row[column], bool)
    return str(row[column]) if number else _text(row, column)


def _texts(values: object, what: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{what} are {values!r}, no list of texts")
    return values


def _asked(row: dict, column: str) -> str:
    """The text before choices, which alone make no question."""
    if not _text(row, column).strip():
        raise ValueError("no question in it")
    return row[column]


def _labelled_choices(row: dict) -> tuple[str, str]:
    """ARC and CommonsenseQA: the choices as lines "A. ..."; a test split without answers has no gold answer."""
    labels, texts = (_texts(row["choices"][name], f"choices' {name}s") for name in ("label", "text"))
    choices = dict(zip(labels, texts, strict=True))
    if len(choices) < len(labels):
        raise ValueError(f"a label stands twice in {labels}")
    lines = "\n".join(f"{label}. {text}" for label, text in choices.items())
    key = _text(row, "answerKey")
    return f"{_asked(row, 'question')}\n{lines}", f"{key}. {choices[key]}" if key else ""


def _mmlu(row: dict) -> tuple[str, str, str]:
    choices, answer = _texts(row["choices"], "choices"), row["answer"]
    lines = [f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    if isinstance(answer, bool) or answer not in range(len(lines)):  # -1 would be the last one
        raise ValueError(f"answer is {answer!r}, not 0 to {len(lines) - 1}")
    return _asked(row, "question") + "\n" + "\n".join(lines), lines[answer], f"Subject: {_text(row, 'subject')}\n"


def _between(text: str, start: str, end: str) -> str:
    """The text after the first `start` and before the last `end` ("": the text's own)."""
    if start not in text or end not in text:
        raise ValueError(f"no {start or end!r} in {text[:40]!r}")
    text = text.partition(start)[2] if start else text
    return text.rpartition(end)[0] if end else text


def _sports(row: dict) -> tuple[str, str]:
    gold = {"plausible": "1. yes\n2. plausible", "implausible": "1. no\n2. implausible"}[_first_target(row)]
    return _between(_text(row, "inputs"), "", "Plausible/implausible?"), gold


def _date(row: dict) -> tuple[str, str]:
    return _between(_text(row, "inputs"), "Q:", "A:"), _first_target(row)


def _first_target(row: dict) -> str:
    return _texts(row["targets"], "targets")[0]


def _question_and_answer(row: dict) -> tuple[str, str]:
    return _text(row, "question"), _text(row, "answer")


def _strategy(row: dict) -> tuple[str, str]:
    gold = str(row["answer"]).lower()
    if gold not in ("true", "false"):
        raise ValueError(f"answer is {row['answer']!r}, neither true nor false")
    return _text(row, "question"), gold


def _just_eval(config: str, aspects: tuple[str, ...]) -> DataSet:
    return DataSet(
        "re-align/just-eval-instruct",
        lambda row: (_text(row, "input"), _text(row, "output_cand")),
        ("gpt_3.5_turbo_0301",),
        config=config,
        scoring=aspects,
        judge_model="gpt-4o",
        system_prompt=INSTRUCTION_PROMPT,
        question_prefix="Instruction: ",
    )


_JUDGED = {"scoring": "judge", "judge_model": "gpt-4o-mini"}
_BIG_BENCH = {"hub_id": "hails/bigbench", "splits": ("default",), **_JUDGED}

# To add a data set: one entry here.
DATA_SETS = {
    "gsm8k": DataSet("gsm8k", _question_and_answer, ("test", "train"), config="main"),
    "svamp": DataSet(
        "ChilleD/SVAMP",
        lambda row: (_text(row, "question_concat"), f"{_text(row, 'Equation')} = {_text_or_number(row, 'Answer')}"),
        ("test", "train"),
    ),
    "multiarith": DataSet(
        "ChilleD/MultiArith",
        lambda row: (_text(row, "question"), _text_or_number(row, "final_ans")),
        ("test", "train"),
    ),
    "mmlu": DataSet(
        "cais/mmlu",
        _mmlu,
        ("test", "validation", "dev", "auxiliary_train"),
        config="all",
        keeps_blanks=True,
        reads="choice",
        **_JUDGED,
    ),
    "arc_challenge": DataSet(
        "allenai/ai2_arc",
        _labelled_choices,
        ("test", "validation", "train"),
        config="ARC-Challenge",
        keeps_blanks=True,
        reads="choice",
        **_JUDGED,
    ),
    "strategyqa": DataSet("ChilleD/StrategyQA", _strategy, ("test", "train"), reads="yes_no", **_JUDGED),
    # The hub's test split has no answers.
    "csqa": DataSet(
        "tau/commonsense_qa",
        _labelled_choices,
        ("validation", "train", "test"),
        keeps_blanks=True,
        reads="choice",
        **_JUDGED,
    ),
    "sports": DataSet(read=_sports, config="sports_understanding_zero_shot", reads="plausible", **_BIG_BENCH),
    "date": DataSet(read=_date, config="date_understanding_zero_shot", reads="date", **_BIG_BENCH),
    "coin_flip": DataSet(
        "skrishna/coin_flip",
        lambda row: (_between(_text(row, "inputs"), "Q:", ""), _text(row, "targets")),
        ("test", "validation", "train"),
        scoring="judge",
        reads="coin",
        judge_model="gpt-4o",
    ),
    "last_letter_concat": DataSet(
        "ChilleD/LastLetterConcat", _question_and_answer, ("test", "train"), reads="word", **_JUDGED
    ),
    "justeval": _just_eval("judgements_main", ("helpfulness", "clarity", "factuality", "depth", "engagement")),
    "justeval_safe": _just_eval("judgements_safety", ("safety",)),
}


def load_examples(
    name: str, *, split: str | None = None, num_samples: int | None = None, data_dir: Path | None = None
) -> list[Example]:
    """The questions of an experiment, in the order in which the published program asks them.

    Args:
        name: a key of DATA_SETS.
        split: a split of the data set; None for the one that the paper's experiments use.
        num_samples: None, or at least the number of rows, for all rows in order; otherwise a sample without replacement by
            numpy's seed 609, in the sample's order.
        data_dir: read `data_dir/name/split.jsonl` (or .jsonl.gz), in the hub's schema, instead of the hub.

    Raises:
        DataError: no such split, no hub connection, no such file, a row that cannot be read, or no rows at all.
    """
    data_set = DATA_SETS[name]
    split = split or data_set.splits[0]
    rows, where = local_rows(data_dir, name, split) if data_dir else hub_rows(name, data_set, split)
    if not len(rows):
        raise DataError(f"{where} has no rows")
    return [_example(data_set, rows[i], i, where) for i in sampled(len(rows), num_samples)]


def sampled(rows: int, num_samples: int | None) -> Sequence[int]:
    """Which of so many rows are asked, in order; see `load_examples`."""
    if num_samples is None or num_samples >= rows:
        return range(rows)
    # The global generator's stream is what the published samples were drawn from.
    return np.random.RandomState(SAMPLING_SEED).choice(rows, num_samples, replace=False).tolist()


def fingerprint(examples: Iterable[Example]) -> str:
    """What tells whether two runs, or two shards, ask the same: a sha256 of all questions, contexts and gold answers, in order.

    The turns before a question are part of it where there are some.
    """
    asked = [
        (example.context, example.question, example.gold, *filter(None, (example.history, example.shots)))
        for example in examples
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _example(data_set: DataSet, row: dict, i: int, where: str) -> Example:
    try:
        question, gold, *context = data_set.read(row)
        if not question.strip():
            raise ValueError("no question in it")
        if not data_set.keeps_blanks:
            question, gold = question.strip(), gold.strip()
        return Example(i, question, gold, *context)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}, row {i + 1}: not in the schema of {data_set.hub_id} ({type(error).__name__}: {error})"
        ) from None


def local_rows(data_dir: Path, name: str, split: str) -> tuple[list[dict], str]:
    """The rows of `data_dir/name/split.jsonl[.gz]`, and where they are; DataError if they cannot be read."""
    folder = Path(data_dir) / name
    path = next((p for p in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz") if is_file(p)), None)
    if path is None:
        found = sorted({file.name.split(".jsonl")[0] for file in folder.glob("*.jsonl*") if file.is_file()})
        above = "" if folder.is_dir() else f" ({folder} is no folder: --data_dir is the one above it)"
        raise DataError(
            f"no file {folder / split}.jsonl or .jsonl.gz; "
            + (f"splits there: {', '.join(found)}" if found else f"no splits there{above}")
        )
    rows, number = [], 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for line in file:
                number += 1
                if line.strip():
                    row = parsed(decoded(line, number))
                    if not isinstance(row, dict):
                        raise ValueError("not a JSON object")
                    rows.append(row)
    except ValueError as error:  # broken JSON and broken UTF-8 are both ValueErrors
        raise DataError(f"{path}, line {number}: not a line of JSON ({error})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}, after line {number}: cannot be read ({error})") from None
    return rows, str(path)


def check_split(name: str, split: str, data_set: DataSet | None = None) -> None:
    """Raise DataError if a data set, by default one of DATA_SETS, has no such split on the hub."""
    splits = (data_set or DATA_SETS[name]).splits
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}; it has: {', '.join(splits)}")


def hub_rows(name: str, data_set: DataSet, split: str):
    """The rows of a split on the hub, and where they are.

    Raises:
        DataError: they cannot be loaded.
        OptionError: the environment's proxy or certificates cannot be used.
    """
    check_split(name, split, data_set)
    where = f"{data_set.hub_id} ({split})"
    import datasets  # slow to import, and needed by those who read the hub alone

    try:
        return datasets.load_dataset(data_set.hub_id, data_set.config, split=split), where
    except Exception as error:  # requests', huggingface_hub's and datasets' errors share no base class
        check_certificates()
        proxy = proxy_for("https://huggingface.co")
        way = f" through {proxy.shown}" if proxy else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where} cannot be loaded from the Hugging Face hub{way} ({reason}); without a connection, name a folder with "
            f"{name}/{split}.jsonl[.gz] by --data_dir"
        ) from None
