"""The config file of a sweep, and the runs that it makes: data sets x experiments x thresholds x pairs, each in its shards."""

import os
import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.sweep_tables import ROLES, ConfigTable, PairTable, SlurmTable
from command.errors import OptionError
from command.files import ResultsError
from command.paths import is_folder, read_text, user_path
from command.schema import read_as
from command.secrets import register_table
from datasets_loader import DATA_SETS
from decoding.criteria import CRITERIA
from experiment.command_line import build_parser
from experiment.judgements import PUBLISHED, is_judged
from experiment.result_files import ResultFiles
from experiment.rules import lacks_verdict
from experiment.settings import DEFAULT_DATA_SET, RunSettings
from language_models.hosted.llama_cpp import is_gguf
from language_models.local.loading import is_transformers_model

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
# The options of a role go to another one's: the small aligned model is the proxy of the baselines.
_TEMPLATES = {"base": "base_template", "nudging": "nudging_template", "proxy_chat": "nudging_template"}
_KEYS = {"base": "base_api_key_env", "nudging": "nudging_api_key_env", "proxy_chat": "proxy_api_key_env"}
_OURS = {
    *("dataset_name", "questions", "exp", "baseline_method", "num_samples", "data_dir", "output_dir", "shard"),
    *("criterion", "threshold", "top_prob_thres"),
}
# Further options that are refused without what they are of.
_OF_NUDGING, _OF_QUESTIONS, _OF_DATA_SETS = ("blend",), ("scoring", "few_shot_file"), ("data_dir", "split")
# What sbatch takes for one word, once there are quotes around it or as it stands.
_ONE_WORD = r"""[^'"\\]*|'[^']*'|"[^"\\]*\""""
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
        number = f" {s.used_threshold:g}" if s.exp == "nudging" and s.used_threshold is not None else ""
        criterion = f" {s.criterion}" if s.criterion != RunSettings.criterion else ""
        told = f"{self.pair}: {s.dataset_name} {self.experiment}{criterion}{number}"
        return told + (f" blend {s.blend}" if s.blend else "") + (f" shard {s.shard}" if s.shard else "")

    @property
    def needed_variables(self) -> list[str]:
        """The environment variables that its hosts are still to come from."""
        return [name for word in _without_needless_hosts(self.options) for name in unset_variables(word)]

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
    slurm: SlurmTable


def read_sweep(path: Path, only: str | None = None, *, slurm: bool = False) -> Sweep:
    """Read a config.

    Args:
        only: the name of a pair; the others are left out.
        slurm: with `serve`, the hosts are those of the servers that an array task starts, whatever the config says.

    Raises:
        ConfigError: it cannot be read, or the runs that it makes cannot work.
    """
    try:
        content = tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error})") from None
    register_table(content)
    config = read_as(ConfigTable, content, path, ConfigError)
    slurm_table = read_as(SlurmTable, config.slurm, f"{path}: [slurm]", ConfigError)
    check_directives(path, slurm_table.sbatch)
    if not config.pairs:
        raise ConfigError(f"{path}: no [[pairs]] in it; name at least one pair of models")
    tasks: list[Task] = []
    names = []
    for number, table in enumerate(config.pairs, 1):
        name = table.get("name") or f"pair {number}"
        names.append(name)
        pair = read_as(PairTable, table, f"{path}: [[pairs]] {name}", ConfigError)
        if only in (None, name):
            serve = slurm_table.serve if pair.serve is None else pair.serve
            tasks += _tasks_of(path, config, replace(pair, name=name, serve=serve), slurm)
    if only is not None and only not in names:
        raise ConfigError(f"{path}: no pair is called {only!r}; there are: {', '.join(names)}")
    by_name: dict[tuple, Task] = {}
    for task in tasks:
        other = by_name.setdefault((task.files.json, task.settings.shard), task)
        if other.options != task.options:
            raise ConfigError(
                f"{path}: {other.label} and {task.label} have the same result files; give one of them an exp_prefix in its options"
            )
    return Sweep(path, user_path(config.output_dir), list(by_name.values()), slurm_table)


def check_directives(path: Path, options: dict[str, object]) -> None:
    """Refuse what would be another line, or another option, of a job's script."""
    for name, value in options.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise ConfigError(
                f"{path}: [slurm.sbatch] {name!r} is no option of sbatch; name one as in time or cpus-per-task"
            )
        if name in ("array", "wrap"):
            raise ConfigError(
                f"{path}: [slurm.sbatch] {name} is the sweep's own (max_at_once says how many run at a time)"
            )
        if isinstance(value, str) and not re.fullmatch(_ONE_WORD, value):
            raise ConfigError(
                f"{path}: [slurm.sbatch] {name} holds quotes or backslashes that sbatch would read as something else; "
                f"it is {value!r}"
            )


def _tasks_of(path: Path, config: ConfigTable, pair: PairTable, slurm: bool) -> list[Task]:
    asked = _asked(config, pair)
    experiments = pair.experiments or config.experiments
    if unknown := [experiment for experiment in experiments if experiment not in EXPERIMENTS]:
        raise ConfigError(f"{path}: no experiment is called {unknown[0]!r}; there are: {', '.join(EXPERIMENTS)}")
    of_all = {"output_dir": config.output_dir, "num_samples": config.num_samples, "data_dir": config.data_dir}
    of_all = {name: value for name, value in of_all.items() if value is not None}
    further = config.options | pair.options
    _further_options(path, further)  # raises what is wrong with them
    numbers = _numbers(path, config, pair) if "nudging" in experiments else []
    if pair.serve is not None and not (pair.base_model and pair.nudging_model):
        raise ConfigError(
            f"{path}: pair {pair.name} is to be served, and needs a base_model and a nudging_model for it"
        )
    models = {role: model for role in ROLES if (model := getattr(pair, f"{role}_model"))}
    tasks = []
    for data_set in asked:
        for experiment in experiments:
            left_out = _OF_DATA_SETS if "--questions" in data_set else _OF_QUESTIONS
            left_out += () if experiment == "nudging" else _OF_NUDGING
            common = _further_options(path, _without(of_all, left_out), of_all)
            common += _further_options(path, _without(further, left_out))
            options = [*data_set, *EXPERIMENTS[experiment][0]]
            options += _model_options(path, pair, slurm and pair.serve is not None, experiment)
            for chosen in numbers if experiment == "nudging" else [[]]:
                for i in range(1, config.shards + 1):
                    shard = ["--shard", f"{i}/{config.shards}"] if config.shards > 1 else []
                    line = tuple([*options, *chosen, *common, *shard])
                    settings = settings_of(f"{path}: pair {pair.name}: ", line, slurm and pair.serve is not None)
                    tasks.append(Task(pair.name, experiment, line, settings, pair.serve, models))
    return tasks


def _asked(config: ConfigTable, pair: PairTable) -> list[list[str]]:
    """The options that say what is asked: data sets and files of questions, the pair's own before the file's."""
    own = pair.data_sets is not None or pair.questions is not None
    data_sets, questions = (pair.data_sets, pair.questions) if own else (config.data_sets, config.questions)
    if data_sets is None and questions is None:
        data_sets = [DEFAULT_DATA_SET]
    data_sets = list(DATA_SETS) if data_sets == ["all"] else data_sets or []
    return [["--dataset_name", name] for name in data_sets] + [["--questions", file] for file in questions or []]


def _numbers(path: Path, config: ConfigTable, pair: PairTable) -> list[list[str]]:
    """The options of each criterion with each of its numbers."""
    where = f"{path}: pair {pair.name}"
    criteria = pair.criteria or config.criteria
    if unknown := [name for name in criteria if name not in CRITERIA]:
        raise ConfigError(f"{where}: no criterion is called {unknown[0]!r}; there are: {', '.join(CRITERIA)}")
    told = config.thresholds if pair.thresholds is None else pair.thresholds
    if isinstance(told, list):
        with_numbers = [name for name in criteria if CRITERIA[name].threshold is not None]
        if len(with_numbers) > 1:
            raise ConfigError(
                f"{where}: numbers of different criteria mean different things; write thresholds as a table, such as "
                f"{{{', '.join(f'{name} = [{CRITERIA[name].threshold:g}]' for name in with_numbers)}}}"
            )
        if not with_numbers:
            raise ConfigError(f"{where}: thresholds are given, and {criteria[0]} has no number")
        told = dict.fromkeys(with_numbers, told)
    told = told or {}
    if unknown := [name for name in told if name not in criteria]:
        raise ConfigError(f"{where}: thresholds of {unknown[0]!r}, which is not among criteria ({', '.join(criteria)})")
    if without := [name for name in told if CRITERIA[name].threshold is None]:
        raise ConfigError(f"{where}: thresholds of {without[0]!r}, which has no number")
    options = []
    for name in criteria:
        option = ["--top_prob_thres"] if name == RunSettings.criterion else ["--criterion", name, "--threshold"]
        numbers = told.get(name) or [CRITERIA[name].threshold]
        options += [option[:-1] if x is None else [*option, str(float(x))] for x in numbers]
    return options


def _model_options(path: Path, pair: PairTable, served: bool, experiment: str) -> list[str]:
    options, roles = [], EXPERIMENTS[experiment][1]
    for role, theirs in roles.items():
        told = {what: getattr(pair, f"{role}_{what}") for what in ("model", "host", "template", "api_key_env")}
        if not told["model"]:
            raise ConfigError(f"{path}: pair {pair.name} has no {role}_model, which {experiment} needs")
        options += [f"--{theirs}_model", told["model"]]
        # Servers that an array task starts itself say in the environment where they are.
        host = _host_variable(role) if served or told["host"] is None else told["host"]
        if host:
            options += [f"--{theirs}_host", host]
        for key, names in (("template", _TEMPLATES), ("api_key_env", _KEYS)):
            if theirs in names and told[key]:
                options += [f"--{names[theirs]}", told[key]]
    return options


def _without(options: dict, left_out: Sequence[str]) -> dict:
    return {name: value for name, value in options.items() if name not in left_out}


def _further_options(path: Path, options: dict, ours: Collection[str] = ()) -> list[str]:
    """Options of run_api.py as words; `ours` are those that the config has keys for."""
    line = []
    for name, value in options.items():
        if name in ("rerun", "dry_run", "help"):
            raise ConfigError(
                f"{path}: {name} cannot stand in a sweep, which continues what is there; give it to run_api.py"
            )
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(f"{path}: options: {name!r} is no option of run_api.py")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and re.match(r"--\w", each):
                raise ConfigError(f"{path}: options.{name}: {each!r} begins like an option, and would be taken for one")
        if name in _OURS and name not in ours:
            raise ConfigError(f"{path}: {name} is no further option; the config has a key of its own for it")
        if value is True:
            line.append(f"--{name}")
        elif value is not False:
            line += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return line


def settings_of(where: str, line: Sequence[str], served: bool = False) -> RunSettings:
    """The settings of a task; a host whose environment variable is not set yet stands for any.

    Args:
        where: what the options are of, which begins messages.

    Raises:
        ConfigError: they cannot work.
    """
    parser = build_parser()
    parser.allow_abbrev = False  # rerun is refused by its name

    def refuse(message: str):
        raise ConfigError(f"{where}{message}")

    parser.error = refuse
    words = line if served else _without_needless_hosts(line)
    words = [_NOT_SET if unset_variables(word) else os.path.expandvars(word) for word in words]
    options = vars(parser.parse_args(words))
    try:
        return RunSettings(**options | {"end_tokens": tuple(options["end_tokens"])})
    except OptionError as error:
        raise ConfigError(f"{where}{error}") from None


def as_run(options: Sequence[str]) -> list[str]:
    """A task's options as run_api.py is given them: with the hosts that the environment names.

    A GGUF file, a bundled model or a folder of a transformers model needs none: without one the run loads it itself.

    Raises:
        ConfigError: the environment variable of another host is not set.
    """
    words = _without_needless_hosts(options)
    if unset := [name for word in words for name in unset_variables(word)]:
        raise ConfigError(f"the environment variable {unset[0]} is not set, which the config takes a host from")
    return [os.path.expandvars(word) for word in words]


def _without_needless_hosts(options: Sequence[str]) -> list[str]:
    """The options without hosts that are left to the environment, which has none, and that their models do without."""
    words = list(options)
    for option in [word for word in words if re.fullmatch(r"--\w+_host", word)]:
        at, model = words.index(option), option.removesuffix("_host") + "_model"
        left_open = words[at + 1 : at + 2] in [[_host_variable(role)] for role in ROLES]
        if left_open and unset_variables(words[at + 1]) and model in words:
            name = os.path.expandvars(words[words.index(model) + 1])
            if is_gguf(name) or (is_folder(name) and is_transformers_model(name)):
                del words[at : at + 2]
    return words


def _host_variable(role: str) -> str:
    return f"${role.upper()}_HOST"


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


def lacks_scores(task: Task) -> bool:
    """Whether a task has all its answers, and not the scores that it was to give them."""
    words, _ = state(task)
    return words.startswith("done") and "unscored" in words and task.settings.judge != "none"


def _state_of(task: Task, files: ResultFiles) -> tuple[str, bool]:
    try:
        records, metadata = files.records(), files.read_run()
    except ResultsError as error:
        return f"unreadable: {error}", False
    if not records:
        return "to do", False
    then = metadata.get("settings", {})
    if then and (differing := [name for name in task.settings.differing(then) if name != "shard"]):
        return f"there with other settings ({', '.join(differing)}), will be refused", False
    answered = sum("error" not in record for record in records)
    total = metadata.get("samples") or (task.settings.num_samples or 0) * task.settings.answers
    if answered < (total or len(records)) or not files.json.exists():
        return f"unfinished, {answered} of {total or 'all'}", False
    data_set = task.settings.data_set
    no_judge = task.settings.judge_settings.why_none(data_set)
    # Without a judge, what only counts as published stays so.
    unreadable = PUBLISHED if no_judge else task.settings.unreadable_judgements
    unscored = sum(lacks_verdict(record, data_set.scoring, unreadable) for record in records)
    if unscored and is_judged(data_set.scoring):
        return f"done, {unscored} of {answered} unscored" + (f" ({no_judge})" if no_judge else ""), bool(no_judge)
    return "done", True
