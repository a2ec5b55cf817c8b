"""The graph engine on a CPU, what a tiny model writes by it, and what it has to write. The caller has torch."""

import functools

from local_models import BYTE_LEVEL, KINDS, PROMPT, TokenByToken, greedy, ids_of

from language_models.local.engines import make_engine

NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB.\nand more"
on_cpu = functools.partial(make_engine, kind="graphs")


def answer(model, n=8, prompt=PROMPT):
    stream = greedy(model.for_sample(prompt), prompt, n)
    list(stream)
    return ids_of(stream)


def expected(seed, n=8, prompt=PROMPT):
    return TokenByToken(KINDS["llama"](seed), BYTE_LEVEL).ids(prompt, n)
