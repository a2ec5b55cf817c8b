"""The prompts that are answered: the sets of the PAD and ARGS papers, or a file of one's own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from command.paths import read_text, user_path
from command.schema import shown
from datasets_loader import DataError, DataSet, hub_rows, local_rows
from pad.preference_files import is_output, row_preference
from pad.preferences import FRAME, Preference, from_text
from pad.prompts import Asked
from pad.rows import lines_of, read_rows
from questions.files import Row, rows_of
from questions.rows import turns_of
from utils import has_surrogate, without_surrogates

LONGEST_STEERS_PROMPT = 100  # characters
TABLES = (".csv", ".tsv")
SUFFIXES = (".json", ".jsonl", ".txt", ".gz", *TABLES)
_HERE = Path(__file__).parent
_PSOUPS_NAMES = ("psoups.jsonl", "psoups.json", "koala_eval_50.jsonl", "koala_eval_50.json")


@dataclass(frozen=True)
class PromptSet:
    """Prompts by name: where they are on the hub (None: nowhere), the split, and how rows become prompts."""

    hub_id: str | None
    split: str
    pick: Callable[[Iterable[dict]], list[str]]


def _prompts(rows: Iterable[dict]) -> list[str]:
    return [row["prompt"] for row in rows]


def _steers(rows: Iterable[dict]) -> list[str]:
    """HelpSteer2 has two answers to each prompt; each short prompt counts once."""
    return list(dict.fromkeys(row["prompt"] for row in rows if len(row["prompt"]) <= LONGEST_STEERS_PROMPT))


def _shp(rows: Iterable[dict]) -> list[str]:
    """The first row of each post, as ARGS writes it."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["post_id"], row["history"])
    return [f" Human: {history} Assistant: " for history in first.values()]


# To add a set: one entry here.
PROMPT_SETS = {
    "psoups": PromptSet(None, "koala_eval_50", _prompts),
    "steers": PromptSet("nvidia/HelpSteer2", "validation", _steers),
    "Dahoas/full-hh-rlhf": PromptSet("Dahoas/full-hh-rlhf", "test", _prompts),
    "stanfordnlp/SHP": PromptSet("stanfordnlp/SHP", "test", _shp),
}


def load_prompts(
    dataset: str,
    *,
    field: str = "prompt",
    frame: str = FRAME,
    split: str | None = None,
    data_dir: Path | None = None,
    run_percent: float = 100.0,
    limit: int | None = None,
    say: Callable[[str], None],
) -> list[Asked]:
    """The prompts of a set or file, in order; half a character in one is U+FFFD.

    Args:
        dataset: a key of PROMPT_SETS, or a file: .json or .jsonl (also .gz) of strings or objects, .csv, .tsv, .txt of lines.
        field: of an object in a file that holds the prompt; "messages" may stand in its place, and a preference beside it.
        frame: of a row's principles.
        split: None for the set's own.
        data_dir: read `data_dir/dataset/split.jsonl[.gz]`, in the hub's schema, instead of the hub.
        run_percent: of the prompts, the first P per cent, at least one.
        limit: at most that many.

    Raises:
        DataError: the data cannot be loaded, or are something else.
    """
    if dataset in PROMPT_SETS:
        prompts = [Asked(prompt) for prompt in _named_set(dataset, split, data_dir, say)]
    elif Path(dataset).suffix in SUFFIXES:
        prompts = _own_file(user_path(dataset), field, frame, say)
    else:
        raise DataError(
            f"no data set is called {dataset!r}; there are: {', '.join(PROMPT_SETS)}, or name a file: "
            ".json, .jsonl, .csv, .tsv or .txt"
        )
    if not prompts:
        raise DataError(f"{dataset} holds no prompts")
    prompts = prompts[: max(1, int(len(prompts) * run_percent / 100))][:limit]
    if halves := [number for number, prompt in enumerate(prompts, 1) if has_surrogate(prompt.instruction)]:
        say(
            f"warning: {dataset}: {len(halves)} prompts hold half a character, which is read as U+FFFD; the first: {halves[0]}"
        )
    return [whole(prompt) for prompt in prompts]


def whole(asked: Asked) -> Asked:
    """A prompt without halves of characters."""
    before = tuple((role, without_surrogates(text)) for role, text in asked.before)
    return replace(asked, words=without_surrogates(asked.words), before=before)


def _own_file(path: Path, field: str, frame: str, say: Callable[[str], None]) -> list[Asked]:
    if path.suffix == ".txt":
        try:
            return [Asked(line) for line in lines_of(read_text(path)) if line.strip()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error})") from None
    if path.suffix in TABLES:
        rows = rows_of(path)[0]
    else:
        rows = [Row(f"{path}, row {number}", row) for number, row in enumerate(read_rows(path, say), 1)]
    first = [row for row in rows if not _is_further_answer(row.values)]
    if further := len(rows) - len(first):
        say(f"{path}: {further} rows are further answers to prompts that stand there already, and are left out")
    return [_asked(row.values, field, frame, row.where) for row in first]


def _is_further_answer(row: object) -> bool:
    return isinstance(row, dict) and is_output(row) and isinstance(row.get("sample"), int) and row["sample"] > 0


def _asked(row: object, field: str, frame: str, where: str) -> Asked:
    """The prompt of a row: a text, or an object with one in its `field`, or with messages."""
    if not isinstance(row, dict):
        row = {field: row}
        if not isinstance(row[field], str):
            raise DataError(f'{where}: neither a text nor an object with a "{field}"')
    preference = row_preference(row, frame, where)
    text = row["instruction"] if field == "prompt" and is_output(row) else row.get(field)
    # The cells of a table that say nothing are empty.
    has_messages = row.get("messages") not in (None, "", [])
    if has_messages and is_output(row):
        return _conversation_again(Row(where, row), preference)
    if has_messages and text in (None, ""):
        return _conversation(Row(where, row), preference)
    if has_messages and "result" not in row:
        raise DataError(f'{where}: it has both "messages" and "{field}"; leave one of them out')
    if text is None:
        raise DataError(
            f'{where}: there is no "{field}"; it has {", ".join(map(str, row)) or "nothing"}; --prompt_field names the field'
        )
    if not isinstance(text, str):
        raise DataError(f'{where}: "{field}" must be a text; it is {shown(text)}')
    if not text.strip():
        raise DataError(f"{where}: its prompt is empty")
    return Asked(text, (), preference)


def _conversation_again(row: Row, preference: Preference | None) -> Asked:
    """The conversation of an output, by the preference by which it was answered, called as it was then."""
    if turns_of(row)[0][0] != "system":
        return _conversation(row, preference)
    asked = _conversation(row, None)
    return replace(asked, preference=preference or asked.preference)


def _conversation(row: Row, preference: Preference | None) -> Asked:
    (first, text), *others = turns = turns_of(row)
    system = first == "system"
    if system:
        if preference is not None:
            raise DataError(f"{row.where}: its messages have a system turn, and it has a preference too; leave one out")
        preference, turns = from_text(text), others
    if any(role == "system" for role, _ in turns):
        raise DataError(f"{row.where}: a system turn is the first of its messages, and the only one")
    *before, (_, words) = turns
    return Asked(words, tuple(before), preference, system)


def _named_set(name: str, split: str | None, data_dir: Path | None, say: Callable[[str], None]) -> list[str]:
    prompt_set = PROMPT_SETS[name]
    split = split or prompt_set.split
    if data_dir is not None:
        rows, where = local_rows(data_dir, name, split)
    elif prompt_set.hub_id is None:
        path = _psoups_file()
        if path.parent == _HERE:
            say(
                f"{name}: no data/{_PSOUPS_NAMES[0]} here, so the prompts are a few of our own ({path.name}); "
                "results are not comparable with published ones"
            )
        rows, where = read_rows(path, say), str(path)
    else:
        described = DataSet(prompt_set.hub_id, lambda row: (), splits=(prompt_set.split, split))
        rows, where = hub_rows(name, described, split)
    try:
        prompts = prompt_set.pick(rows)
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: not in the schema of {name} ({type(error).__name__}: {error})") from None
    if wrong := [prompt for prompt in prompts if not isinstance(prompt, str) or not prompt.strip()]:
        what = f"{wrong[0]!r}, not a text" if not isinstance(wrong[0], str) else "empty"
        raise DataError(f"{where}: a prompt is {what}")
    return prompts


def _psoups_file() -> Path:
    """The 50 prompts, whose licence is unclear, where the user has put them; else a sample of our own."""
    folders = (Path("data"), _HERE.parent / "data")
    own = next((folder / name for folder in folders for name in _PSOUPS_NAMES if (folder / name).is_file()), None)
    return own or _HERE / "psoups_sample.jsonl"
