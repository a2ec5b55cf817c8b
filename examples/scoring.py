"""A way of scoring for `--scoring examples/scoring.py:names_it`."""


def names_it(record: dict) -> bool | None:
    """Whether the right answer stands in the model's, capitals or not; None, which is no score, where there is none to compare."""
    if not record["gold_answer"]:
        return None
    return record["gold_answer"].lower() in record["raw_answer"].lower()
