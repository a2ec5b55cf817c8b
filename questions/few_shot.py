"""Questions with their answers that stand in front of every question (--few_shot N).

In-context learning after Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020 (arXiv 2005.14165): N pairs in the
prompt, of a data set's train split, or of a file.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets_loader import DATA_SETS, SAMPLING_SEED, DataError, DataSet, Example, load_examples
from questions.own import load_questions

SPLIT = "train"


def with_shots(
    examples: Sequence[Example], pool: Sequence[Example], number: int, data_set: DataSet, where: str
) -> list[Example]:
    """The questions, each with the same pairs before it.

    Args:
        pool: where the pairs are drawn from, by numpy's seed 609; none without an answer, and none that is asked.
        where: what the pool is, for messages.

    Raises:
        DataError: there are not so many, or a question has turns before it already.
    """
    if others := [example for example in [*examples, *pool] if example.history]:
        raise DataError(
            f"--few_shot: the question with the id {others[0].id!r} has messages before it, which pairs cannot stand in front of"
        )
    asked = {_plain(example) for example in examples}
    order = np.random.RandomState(SAMPLING_SEED).permutation(len(pool)).tolist()
    fitting = [pool[i] for i in order if pool[i].gold.strip() and _plain(pool[i]) not in asked]
    fitting = list({_plain(example): example for example in reversed(fitting)}.values())[::-1]
    if len(fitting) < number:
        raise DataError(
            f"--few_shot {number}: {where} has {len(fitting)} questions with an answer that are not asked themselves"
        )
    shots = tuple(
        (example.context + data_set.question_prefix + example.question, example.gold) for example in fitting[:number]
    )
    return [replace(example, shots=shots) for example in examples]


def check_train_split(name: str) -> None:
    """Raise DataError if a data set has no train split."""
    if SPLIT not in DATA_SETS[name].splits:
        raise DataError(
            f"--few_shot: {name} has no {SPLIT} split to take questions from (it has: {', '.join(DATA_SETS[name].splits)}); "
            "--few_shot_file names a file with questions and answers"
        )


def few_shot_pool(name: str | None, file: Path | None, data_dir: Path | None) -> tuple[list[Example], str]:
    """What pairs are drawn from, and its name: a file of questions, or the train split of a data set.

    Raises:
        DataError: it cannot be read, or the data set has no train split.
    """
    if file is not None:
        return load_questions(file).examples, str(file)
    check_train_split(name)
    return load_examples(name, split=SPLIT, data_dir=data_dir), f"the {SPLIT} split of {name}"


def _plain(example: Example) -> str:
    return (example.context + example.question).strip()
