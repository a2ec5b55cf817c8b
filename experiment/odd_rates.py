"""Intervention rates that speak of wrong log-probabilities, or of a threshold that decides nothing, rather than of the models."""

from fractions import Fraction

FEWEST_OF_THE_SAME = 3  # two short answers may have the same rate by chance

ASK = "does the threshold decide anything, and are the log-probabilities the base model's own (docs/servers.md)?"


def odd_rates(records: list[dict]) -> str | None:
    """One line where no answer is nudged behind its first words, or all answers are nudged at the same rate; None otherwise.

    Args:
        records: those of nudging answers, with all_nudging_words and all_completions.
    """
    if not records:
        return None
    if not any(_goes_on(record) for record in records):
        return f"warning: 0 % nudged: the nudging model wrote nothing behind the first words of any answer; {ASK}"
    for rate_of in (_rate_of_words, _rate_of_characters):
        rates = {rate_of(record) for record in records}
        if len(rates) == 1 and len(records) >= FEWEST_OF_THE_SAME:
            rate = 100 * float(rates.pop())
            return f"warning: all {len(records)} answers have the same intervention rate ({rate:.1f} %); {ASK}"
    return None


def _nudges(record: dict) -> list[str]:
    """The nudging model's words that show, but for those that end the answer."""
    nudges = [words for words in record["all_nudging_words"] if words.strip()]
    ending = record.get("stop_reason") == "nudging_model_stop" and len(nudges) > 1
    return nudges[:-1] if ending else nudges


def _goes_on(record: dict) -> bool:
    """Whether the nudging model wrote more than the first words, which the method always takes of it, and the last; or all."""
    return len(_nudges(record)) > 1 or _rate_of_characters(record) == 1


def _rate_of_words(record: dict) -> Fraction:
    words = len("".join(record["all_completions"]).split())
    return Fraction(sum(len(nudge.split()) for nudge in _nudges(record)), max(1, words))


def _rate_of_characters(record: dict) -> Fraction:
    characters = sum(map(len, record["all_completions"]))
    return Fraction(sum(map(len, record["all_nudging_words"])), max(1, characters))
