"""docs/research.md names every criterion with its number, what it needs and where it comes from."""

import pytest
from runs import REPOSITORY

from decoding.criteria import CRITERIA

TEXT = (REPOSITORY / "docs/research.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterions_row_is_the_tables(name):
    (row,) = (line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
    rule = CRITERIA[name]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    number = "none" if rule.threshold is None else f"{rule.lowest:g} to {rule.highest:.4g} ({rule.threshold:g})"
    needs = f"{'not asked' if rule.alone == 'nudging' else rule.logprobs}, {rule.nudging_logprobs or 0}"
    assert cells == [f"`{name}`", rule.rejects, number, needs, rule.cost, rule.paper]
