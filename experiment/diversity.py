"""How different the answers to one question are: distinct n-grams (Li et al. 2016), self-BLEU (Zhu et al. 2018).

Li, Galley, Brockett, Gao, Dolan, "A Diversity-Promoting Objective Function for Neural Conversation Models", NAACL 2016
(arXiv 1510.03055); Zhu et al., "Texygen: A Benchmarking Platform for Text Generation Models", SIGIR 2018 (arXiv 1802.01886).
Words and punctuation marks are as sacrebleu's tokenizer 13a cuts them, capital letters as they are.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from command.intervals import mean_interval

ORDER = 4  # BLEU counts n-grams of up to four words
Words = Sequence[str]


def diversity(questions: Sequence[Sequence[str]]) -> dict[str, dict]:
    """The mean of each of MEASURES over the questions.

    Args:
        questions: the answers to each, at least two, and to all questions as many: figures of fewer answers would be others.

    Returns:
        By measure: `mean`, its `interval_95` over the questions (None for one question), and how many `questions` have the figure.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a  # not needed by a command that shows no such answers

    tokenize, found = Tokenizer13a(), {}
    cut = [[tokenize(text).split() for text in texts] for texts in questions]
    for name, measure in MEASURES.items():
        values = [value for answers in cut if (value := measure.of(answers)) is not None]
        if values:
            interval = mean_interval(values) if len(values) > 1 else None
            found[name] = {"mean": statistics.fmean(values), "interval_95": interval, "questions": len(values)}
    return found


def distinct(answers: Sequence[Words], n: int) -> float | None:
    """Different n-grams of all answers to a question together, over all n-grams; None where there are none."""
    grams = [gram for words in answers for gram in _grams(words, n)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(answers: Sequence[Words]) -> float:
    """The mean BLEU, 0 to 100, of each answer to a question against the others as its references.

    It is sacrebleu's of sentences (exponential smoothing, as many orders as the answer has). An empty answer, for which BLEU is not
    defined, has 100 where another one is empty too, else 0.
    """
    counts = [Counter(gram for n in range(1, ORDER + 1) for gram in _grams(words, n)) for words in answers]
    # The two highest counts of each n-gram in one answer: one of them is of another answer than any that is looked at.
    highest: dict[tuple, tuple[int, int]] = {}
    for count in counts:
        for gram, times in count.items():
            first, second = highest.get(gram, (0, 0))
            highest[gram] = (times, first) if times > first else (first, max(second, times))
    lengths = [len(words) for words in answers]
    return statistics.fmean(
        _bleu(words, count, highest, [*lengths[:i], *lengths[i + 1 :]])
        for i, (words, count) in enumerate(zip(answers, counts, strict=True))
    )


def _bleu(words: Words, count: Counter, highest: dict[tuple, tuple[int, int]], others: list[int]) -> float:
    from sacrebleu.metrics import BLEU

    if not words:
        return 100.0 if 0 in others else 0.0
    correct = [0] * ORDER
    for gram, times in count.items():
        first, second = highest[gram]
        correct[len(gram) - 1] += min(times, second if first == times else first)
    total = [max(0, len(words) - n) for n in range(ORDER)]
    nearest = min(others, key=lambda length: (abs(length - len(words)), length))
    return BLEU.compute_bleu(
        correct, total, len(words), nearest, smooth_method="exp", effective_order=True, max_ngram_order=ORDER
    ).score


def _grams(words: Words, n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@dataclass(frozen=True)
class Measure:
    """A number `of` the words of a question's answers, None where they have none; how it is called, and written."""

    of: Callable[[Sequence[Words]], float | None]
    words: str
    form: str


MEASURES = {
    "distinct_1": Measure(lambda answers: distinct(answers, 1), "distinct-1", "{:.3f}"),
    "distinct_2": Measure(lambda answers: distinct(answers, 2), "distinct-2", "{:.3f}"),
    "self_bleu": Measure(self_bleu, "self-BLEU, 0 to 100", "{:.1f}"),
}
