"""The config file of a sweep, and the runs that it makes: data sets x experiments x thresholds x pairs, each in its shards."""

import os
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from command.errors import OptionError
from command.files import ResultsError
from datasets_loader import DATA_SETS
from experiment.command_line import build_parser
from experiment.result_files import ResultFiles
from experiment.rules import is_scored
from experiment.settings import RunSettings

# What a config calls an experiment: run_api.py's options, and the roles of the pair's models in them.
EXPERIMENTS = {
    "base_only": (("--exp", "base_only"), {"base": "base"}),
    "nudging_only": (("--exp", "nudging_only"), {"nudging": "nudging"}),
    "aligned_only": (("--exp", "nudging_only"), {"aligned": "nudging"}),
    "nudging": (("--exp", "nudging"), {"base": "base", "nudging": "nudging"}),
    "ensemble": (
        ("--exp", "baseline", "--baseline_method", "ensemble"),
        {"base": "base", "nudging": "proxy_chat"},
    ),
    "proxy_tuning": (
        ("--exp", "baseline", "--baseline_method", "proxy_tuning"),
        {"base": "base", "nudging": "proxy_chat", "proxy_base": "proxy_base"},
    ),
}
ROLES = ("base", "nudging", "aligned", "proxy_base")
# The options of a role go to another one's: the small aligned model is the proxy of the baselines.
_TEMPLATES = {"base": "base_template", "nudging": "nudging_template", "proxy_chat": "nudging_template"}
_KEYS = {"base": "base_api_key_env", "nudging": "nudging_api_key_env", "proxy_chat": "proxy_api_key_env"}
_PAIR_KEYS = {f"{role}_{what}" for role in ROLES for what in ("model", "host", "template", "api_key_env")}
_PAIR_KEYS |= {"name", "thresholds", "experiments", "data_sets", "options", "serve"}
_TOP_KEYS = {"output_dir", "data_sets", "experiments", "thresholds", "num_samples", "data_dir", "shards"}
_TOP_KEYS |= {"options", "pairs", "slurm"}
_SLURM_KEYS = {"sbatch", "max_at_once", "setup", "serve"}
_OURS = {"dataset_name", "exp", "baseline_method", "top_prob_thres", "num_samples", "data_dir", "output_dir", "shard"}
_NOT_SET = "http://not-set-yet:1"


class ConfigError(OptionError):
    """A config that cannot work; the message names the file, the key and what to do."""


@dataclass(frozen=True)
class Task:
    """One call of run_api.py: its options (hosts may name environment variables), and the pair and experiment it is of."""

    pair: str
    experiment: str
    options: tuple[str, ...]
    settings: RunSettings = field(compare=False, repr=False)
    serve: str | None = None
    models: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def label(self) -> str:
        """What people call it."""
        s = self.settings
        threshold = f" {s.top_prob_thres:g}" if s.exp == "nudging" else ""
        return f"{self.pair}: {s.dataset_name} {self.experiment}{threshold}" + (f" shard {s.shard}" if s.shard else "")

    @property
    def files(self) -> ResultFiles:
        """Its result files."""
        return ResultFiles(self.settings.result_folder, self.settings.result_name)

    @property
    def whole_files(self) -> ResultFiles:
        """The result files of the run that it is a shard of; its own if it is none."""
        return ResultFiles(self.settings.result_folder, re.sub(r"_shard\d+of\d+$", "", self.settings.result_name))


@dataclass(frozen=True)
class Sweep:
    """A config that has been read."""

    path: Path
    output_dir: Path
    tasks: list[Task]
    slurm: dict


def read_sweep(path: Path, only: str | None = None, *, slurm: bool = False) -> Sweep:
    """Read a config.

    Args:
        only: the name of a pair; the others are left out.
        slurm: with `serve`, the hosts are those of the servers that an array task starts, whatever the config says.

    Raises:
        ConfigError: it cannot be read, or the runs that it makes cannot work.
    """
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error})") from None
    _check_keys(path, "the file", config, _TOP_KEYS)
    _check_keys(path, "[slurm]", config.get("slurm", {}), _SLURM_KEYS)
    pairs = config.get("pairs") or []
    if not isinstance(pairs, list) or not pairs:
        raise ConfigError(f"{path}: no [[pairs]] in it; name at least one pair of models")
    tasks: list[Task] = []
    names = []
    for number, pair in enumerate(pairs, 1):
        name = pair.get("name") or f"pair {number}"
        names.append(name)
        _check_keys(path, f"[[pairs]] {name}", pair, _PAIR_KEYS)
        if only in (None, name):
            tasks += _tasks_of(path, config, name, pair, slurm)
    if only is not None and only not in names:
        raise ConfigError(f"{path}: no pair is called {only!r}; there are: {', '.join(names)}")
    by_name: dict[tuple, Task] = {}
    for task in tasks:
        other = by_name.setdefault((task.files.json, task.settings.shard), task)
        if other.options != task.options:
            raise ConfigError(
                f"{path}: {other.label} and {task.label} have the same result files; give one of them an exp_prefix in its options"
            )
    return Sweep(
        path, Path(config.get("output_dir", RunSettings.output_dir)), list(by_name.values()), config.get("slurm", {})
    )


def _check_keys(path: Path, where: str, table: dict, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {where} is not a table")
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"{path}: {where} has an unknown key {unknown[0]!r}; known are: {', '.join(sorted(known))}")


def _listed(path: Path, name: str, tables: tuple[dict, dict], default: list, kinds: type | tuple) -> list:
    found = next((table[name] for table in tables if name in table), default)
    found = found if isinstance(found, list) else [found]
    if not found or not all(isinstance(value, kinds) and not isinstance(value, bool) for value in found):
        raise ConfigError(f"{path}: {name} is not a list of {'numbers' if kinds == (int, float) else 'names'}")
    return found


def _tasks_of(path: Path, config: dict, name: str, pair: dict, slurm: bool) -> list[Task]:
    tables = pair, config
    data_sets = _listed(path, "data_sets", tables, ["gsm8k"], str)
    data_sets = list(DATA_SETS) if data_sets == ["all"] else data_sets
    experiments = _listed(path, "experiments", tables, ["nudging"], str)
    thresholds = _listed(path, "thresholds", tables, [RunSettings.top_prob_thres], (int, float))
    shards = config.get("shards", 1)
    if not isinstance(shards, int) or shards < 1:
        raise ConfigError(f"{path}: shards is a number, at least 1")
    if unknown := [experiment for experiment in experiments if experiment not in EXPERIMENTS]:
        raise ConfigError(f"{path}: no experiment is called {unknown[0]!r}; there are: {', '.join(EXPERIMENTS)}")
    common = ["--output_dir", str(config.get("output_dir", RunSettings.output_dir))]
    for option in ("num_samples", "data_dir"):
        if option in config:
            common += [f"--{option}", str(config[option])]
    more = _further_options(path, config.get("options", {}) | pair.get("options", {}))
    serve = pair.get("serve", config.get("slurm", {}).get("serve"))
    if serve is not None and not (pair.get("base_model") and pair.get("nudging_model")):
        raise ConfigError(f"{path}: pair {name} is to be served, and needs a base_model and a nudging_model for it")
    models = {role: pair[f"{role}_model"] for role in ROLES if pair.get(f"{role}_model")}
    tasks = []
    for data_set in data_sets:
        for experiment in experiments:
            options = ["--dataset_name", data_set, *EXPERIMENTS[experiment][0]]
            options += _model_options(path, name, pair, slurm and serve is not None, experiment)
            for threshold in thresholds if experiment == "nudging" else [None]:
                chosen = [] if threshold is None else ["--top_prob_thres", str(float(threshold))]
                for i in range(1, shards + 1):
                    shard = ["--shard", f"{i}/{shards}"] if shards > 1 else []
                    line = tuple([*options, *chosen, *common, *more, *shard])
                    tasks.append(Task(name, experiment, line, _settings(path, name, line), serve, models))
    return tasks


def _model_options(path: Path, name: str, pair: dict, served: bool, experiment: str) -> list[str]:
    options, roles = [], EXPERIMENTS[experiment][1]
    for role, theirs in roles.items():
        if not pair.get(f"{role}_model"):
            raise ConfigError(f"{path}: pair {name} has no {role}_model, which {experiment} needs")
        options += [f"--{theirs}_model", str(pair[f"{role}_model"])]
        # Servers that an array task starts itself say in the environment where they are.
        host = f"${role.upper()}_HOST" if served else pair.get(f"{role}_host", f"${role.upper()}_HOST")
        if host:
            options += [f"--{theirs}_host", str(host)]
        for key, names in (("template", _TEMPLATES), ("api_key_env", _KEYS)):
            if theirs in names and pair.get(f"{role}_{key}"):
                options += [f"--{names[theirs]}", str(pair[f"{role}_{key}"])]
    return options


def _further_options(path: Path, options: dict) -> list[str]:
    line = []
    for name, value in options.items():
        if name in ("rerun", "dry_run"):
            raise ConfigError(
                f"{path}: {name} cannot stand in a sweep, which continues what is there; give it to run_api.py"
            )
        if name in _OURS:
            raise ConfigError(f"{path}: {name} is no further option; the config has a key of its own for it")
        if value is True:
            line.append(f"--{name}")
        elif value is not False:
            line += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return line


def _settings(path: Path, name: str, line: tuple[str, ...]) -> RunSettings:
    """The settings of a task; a host whose environment variable is not set yet stands for any."""
    parser = build_parser()

    def refuse(message: str):
        raise ConfigError(f"{path}: pair {name}: {message}")

    parser.error = refuse
    words = [_NOT_SET if unset_variables(word) else os.path.expandvars(word) for word in line]
    options = vars(parser.parse_args(words))
    try:
        return RunSettings(**options | {"end_tokens": tuple(options["end_tokens"])})
    except OptionError as error:
        raise ConfigError(f"{path}: pair {name}: {error}") from None


def unset_variables(word: str) -> list[str]:
    """The environment variables that a word of a command names ($NAME or ${NAME}) and that are not set."""
    return [name for name in re.findall(r"\$\{?([A-Za-z_]\w*)\}?", word) if name not in os.environ]


def state(task: Task) -> tuple[str, bool]:
    """What has become of a task so far, in words, and whether there is nothing left to do."""
    if task.settings.shard:
        told = _state_of(task, task.whole_files)
        if told[1]:
            return told
    return _state_of(task, task.files)


def _state_of(task: Task, files: ResultFiles) -> tuple[str, bool]:
    try:
        records, story = files.records(), files.read_run()
    except ResultsError as error:
        return f"unreadable: {error}", False
    if not records:
        return "to do", False
    then = story.get("settings", {})
    if then and (differing := [name for name in task.settings.differing(then) if name != "shard"]):
        return f"there with other settings ({', '.join(differing)}), will be refused", False
    answered = sum("error" not in record for record in records)
    total = story.get("samples") or task.settings.num_samples
    if answered < (total or len(records)) or not files.json.exists():
        return f"unfinished, {answered} of {total or 'all'}", False
    data_set = DATA_SETS[task.settings.dataset_name]
    unscored = sum(not is_scored(record, data_set.scoring) for record in records)
    if unscored and data_set.scoring != "rule":
        no_judge = task.settings.judge_settings.why_none(data_set)
        return f"done, {unscored} of {answered} unscored" + (f" ({no_judge})" if no_judge else ""), bool(no_judge)
    return "done", True


def command_line(task: Task) -> str:
    """The command of a task, to be read."""
    return shlex.join(["python", "run_api.py", *task.options])
