"""Which questions a run asks: a data set's or one's own, with the pairs that stand before them."""

from collections.abc import Callable
from pathlib import Path

from datasets_loader import Example, load_examples
from experiment.judgements import NONE
from experiment.settings import RunSettings
from questions.few_shot import few_shot_pool, with_shots
from questions.own import load_questions


def load_asked(settings: RunSettings, say: Callable[[str], None] = lambda line: None) -> list[Example]:
    """The questions of a run, of all its shards.

    Args:
        say: told in a line what a file of questions holds.

    Raises:
        UserError: they cannot be read, or there are too few to stand before others.
    """
    if settings.questions is None:
        examples = load_examples(
            settings.dataset_name, split=settings.split, num_samples=settings.num_samples, data_dir=settings.data_dir
        )
    else:
        found = load_questions(Path(settings.questions), settings.num_samples)
        examples = found.examples
        say(found.told)
    if settings.few_shot:
        file = settings.few_shot_file and Path(settings.few_shot_file)
        pool, where = few_shot_pool(settings.dataset_name, file, settings.data_dir)
        examples = with_shots(examples, pool, settings.few_shot, settings.data_set, where)
    return examples


def scoring_in_words(scoring: str, examples: list[Example]) -> str:
    """What is said of how questions of one's own will be scored; "" where nothing has to be said."""
    if scoring == NONE:
        return "unscored: --scoring says how to score the answers (rule, choice, judge, or FILE.py:function)"
    if ":" not in scoring and not any(example.gold for example in examples):
        return f"--scoring {scoring} has nothing to go by: no question has an answer in the column answer"
    return ""
