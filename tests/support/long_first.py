"""The order of tests that run side by side: those that take long begin, so that no process is left with one at the end."""

from collections.abc import Sequence


def long_first(tests: Sequence, is_long: Sequence[bool], modules: Sequence[object], processes: int) -> list:
    """The tests in another order, of which xdist gives each process a share of neighbours, as large as the others'.

    Args:
        tests: in their usual order, in which the others stay.
        is_long: for each test, whether it takes long.
        modules: for each test, its module; long neighbours of one module stay together, as they share what is made for them.
        processes: how many shares there are.
    """
    shares: list[list] = [[] for _ in range(processes)]
    groups, last = 0, None
    for test, long, module in zip(tests, is_long, modules, strict=True):
        if long:
            groups += module != last
            shares[(groups - 1) % processes].append(test)
        last = module if long else None
    others = iter([test for test, long in zip(tests, is_long, strict=True) if not long])
    left = len(tests)
    for number, share in enumerate(shares):
        size = left // (processes - number)
        share.extend(test for _, test in zip(range(size - len(share)), others, strict=False))
        left -= len(share)
    return [test for share in shares for test in share] + list(others)
