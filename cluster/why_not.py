"""Why runs of a sweep cannot start: what run_api.py checks before it asks anything, once for all runs that share it."""

from cluster.sweep_config import Task
from command.errors import UserError
from datasets_loader import check_split
from experiment.asking import load_asked
from experiment.judgements import is_judged
from experiment.prompts import prompt_builders
from experiment.readiness import check_folder, check_models, check_shard
from experiment.settings import RunSettings

# The settings that say which questions are asked.
_DATA = (
    "dataset_name",
    "questions",
    "split",
    "num_samples",
    "data_dir",
    "few_shot",
    "few_shot_file",
)


class WhyNot:
    """Tells of a task why it cannot start, "" where nothing is known. Data of the hub are not fetched for it."""

    def __init__(self):
        self._told: dict[tuple, str] = {}
        self._samples: dict[tuple, int] = {}

    def __call__(self, task: Task) -> str:
        settings = task.settings
        data = tuple(getattr(settings, name) for name in _DATA)
        models = tuple(settings.models.values())
        judged = is_judged(settings.data_set.scoring)
        checks = (
            ((settings.output_dir, settings.dataset_name), lambda: check_folder(settings)),
            (models, lambda: prompt_builders(settings)),
            ((*models, settings.device, settings.judge_settings, judged), lambda: check_models(settings, judged)),
            ((*data, settings.shard), lambda: self._check_data(data, settings)),
        )
        for number, (key, check) in enumerate(checks):
            if (number, key) not in self._told:
                self._told[number, key] = _fault(check)
            if told := self._told[number, key]:
                return told
        return ""

    def _check_data(self, data: tuple, settings: RunSettings) -> None:
        if settings.data_dir is None and settings.questions is None:
            check_split(settings.dataset_name, settings.used_split)
            return
        if data not in self._samples:
            self._samples[data] = len(load_asked(settings))
        check_shard(settings, self._samples[data])


def _fault(check) -> str:
    try:
        check()
    except UserError as error:
        return str(error)
    return ""
