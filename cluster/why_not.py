"""Why runs of a sweep cannot start: what run_api.py checks before it asks anything, once for all runs that share it."""

import functools
from pathlib import Path

from cluster.sweep_config import Task
from command.errors import UserError
from datasets_loader import DATA_SETS, check_split, load_examples
from experiment.prompts import prompt_builders
from experiment.readiness import check_folder, check_models, check_shard


class WhyNot:
    """Tells of a task why it cannot start, "" where nothing is known. Data of the hub are not fetched for it."""

    def __init__(self):
        self._told: dict[tuple, str] = {}
        self._samples = functools.cache(_samples)

    def __call__(self, task: Task) -> str:
        settings = task.settings
        data = settings.dataset_name, settings.split, settings.num_samples, settings.data_dir
        models = tuple(settings.models.values())
        judged = DATA_SETS[settings.dataset_name].scoring != "rule"
        checks = (
            ((settings.output_dir, settings.dataset_name), lambda: check_folder(settings)),
            (models, lambda: prompt_builders(settings)),
            ((*models, settings.device, settings.judge_settings, judged), lambda: check_models(settings, judged)),
            ((*data, settings.shard), lambda: self._check_data(*data, settings)),
        )
        for number, (key, check) in enumerate(checks):
            if (number, key) not in self._told:
                self._told[number, key] = _fault(check)
            if told := self._told[number, key]:
                return told
        return ""

    def _check_data(
        self, name: str, split: str | None, num_samples: int | None, data_dir: str | None, settings
    ) -> None:
        if data_dir is None:
            check_split(name, settings.used_split)
        else:
            check_shard(settings, self._samples(name, split, num_samples, data_dir))


def _samples(name: str, split: str | None, num_samples: int | None, data_dir: str) -> int:
    return len(load_examples(name, split=split, num_samples=num_samples, data_dir=Path(data_dir)))


def _fault(check) -> str:
    try:
        check()
    except UserError as error:
        return str(error)
    return ""
