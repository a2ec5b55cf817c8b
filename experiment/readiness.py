"""What can be known of a run before it sends anything: its questions, its prompts, its models' files, its folder."""

from command.files import ResultsError
from command.paths import why_not_writable
from experiment.asking import load_asked
from experiment.command_line import COMMAND
from experiment.prompts import prompt_builders
from experiment.result_files import ResultFiles
from experiment.run import Run
from experiment.settings import RunSettings, SettingsError
from language_models.hosted.llama_cpp import gguf_path, is_gguf, require_xllamacpp
from language_models.local.loading import load_config, pick_device


def prepared(settings: RunSettings) -> Run:
    """A run with its questions and what writes its prompts; nothing of an earlier session is read yet.

    Raises:
        UserError: the data or a template cannot be read, or there are fewer samples than shards.
    """
    builders = prompt_builders(settings)
    examples = load_asked(settings, COMMAND.note)
    check_shard(settings, len(examples))
    return Run(settings, ResultFiles(settings.result_folder, settings.result_name), examples, builders)


def check_shard(settings: RunSettings, samples: int) -> None:
    """Raise SettingsError if a shard has no samples."""
    if not settings.shard_indices(samples):
        raise SettingsError(
            f"--shard {settings.shard} has no samples, since there are {samples} in all; use fewer shards"
        )


def check_folder(settings: RunSettings) -> None:
    """Raise ResultsError if results cannot be written where they should be; makes no folder."""
    if why := why_not_writable(settings.result_folder / "all_info"):
        raise ResultsError(
            f"results cannot be written to {settings.result_folder} ({why}); choose another --output_dir"
        )


def check_models(settings: RunSettings, judged: bool) -> None:
    """Check the models of this process without loading them: their files, the packages and the device that they need.

    Args:
        judged: whether a judge is wanted, which may be one of them.

    Raises:
        UserError: one of these is not there.
    """
    places = [(model.name, model.device) for model in settings.models.values() if not model.host]
    judge = settings.judge_settings
    if judged and judge.judge_model and judge.is_own(judge.judge_model):
        places.append((judge.judge_model, judge.device))
    for name, device in dict.fromkeys(places):
        if is_gguf(name):
            gguf_path(name)
            require_xllamacpp(name)
        else:
            pick_device(device)
            load_config(name)
