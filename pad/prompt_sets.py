"""The prompts that are answered: the sets of the PAD and ARGS papers, or a file of one's own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from command.paths import read_text, user_path
from datasets_loader import DataError, DataSet, hub_rows, local_rows
from pad.rows import read_rows
from utils import has_surrogate, without_surrogates

LONGEST_STEERS_PROMPT = 100  # characters
SUFFIXES = (".json", ".jsonl", ".txt", ".gz")
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
    split: str | None = None,
    data_dir: Path | None = None,
    run_percent: float = 100.0,
    limit: int | None = None,
    say: Callable[[str], None],
) -> list[str]:
    """The prompts of a set or file, in order; half a character in one is U+FFFD.

    Args:
        dataset: a key of PROMPT_SETS, or a file: .json or .jsonl (also .gz) of strings or objects with "prompt", .txt of lines.
        split: None for the set's own.
        data_dir: read `data_dir/dataset/split.jsonl[.gz]`, in the hub's schema, instead of the hub.
        run_percent: of the prompts, the first P per cent, at least one.
        limit: at most that many.

    Raises:
        DataError: the data cannot be loaded, or are something else.
    """
    if dataset in PROMPT_SETS:
        prompts = _named_set(dataset, split, data_dir, say)
    elif Path(dataset).suffix in SUFFIXES:
        prompts = _own_file(user_path(dataset), say)
    else:
        raise DataError(
            f"no data set is called {dataset!r}; there are: {', '.join(PROMPT_SETS)}, or name a .json, .jsonl or .txt file"
        )
    if not prompts:
        raise DataError(f"{dataset} holds no prompts")
    prompts = prompts[: max(1, int(len(prompts) * run_percent / 100))][:limit]
    if halves := [number for number, prompt in enumerate(prompts, 1) if has_surrogate(prompt)]:
        say(
            f"warning: {dataset}: {len(halves)} prompts hold half a character, which is read as U+FFFD; the first: {halves[0]}"
        )
    return [without_surrogates(prompt) for prompt in prompts]


def _own_file(path: Path, say: Callable[[str], None]) -> list[str]:
    if path.suffix == ".txt":
        try:
            return [line for line in read_text(path).splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error})") from None
    prompts = [row.get("prompt") if isinstance(row, dict) else row for row in read_rows(path, say)]
    for number, prompt in enumerate(prompts, 1):
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f'{path}, row {number}: neither a text nor an object with a "prompt"')
    return prompts


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
        raise DataError(f"{where}: a prompt is {wrong[0]!r}, not a text")
    return prompts


def _psoups_file() -> Path:
    """The 50 prompts, whose licence is unclear, where the user has put them; else a sample of our own."""
    folders = (Path("data"), _HERE.parent / "data")
    own = next((folder / name for folder in folders for name in _PSOUPS_NAMES if (folder / name).is_file()), None)
    return own or _HERE / "psoups_sample.jsonl"
