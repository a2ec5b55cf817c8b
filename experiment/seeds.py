"""Seeds of a run's answers (--seed): each answer draws its own numbers, and so does each model in it."""

import hashlib
from dataclasses import dataclass, replace

from language_models.interface import SEEDS, Completion, LanguageModel, ModelAround, SamplingParams, TokenStream

# A call after some text of an answer has the answer's seed plus the text's length (SamplingParams.after), so that the seeds of an
# answer are a range: no answer has as many characters as lie between two of these, and all of a question fit below SEEDS.
APART = 2**20
ROLES = ("base", "nudging", "proxy_chat", "proxy_base")
MOST_ANSWERS = 1000


def seed_of(seed: int, question: int | str, number: int) -> int:
    """The seed of an answer's first call, which depends on these three alone.

    Args:
        seed: the run's.
        question: the question's id.
        number: which of its answers, from 0; up to MOST_ANSWERS of one question have no seed in common, in no call of any model.
    """
    told = f"{seed}\n{question!r}".encode("utf-8", "backslashreplace")
    first = int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big")
    return (first + number * len(ROLES) * APART) % SEEDS


def sample_id(question: int | str, number: int) -> object:
    """What a model knows an answer by: the question's id, and of further answers another one, so that other numbers are drawn."""
    return (question, number) if number else question


@dataclass
class OwnNumbers(ModelAround):
    """A language model with seeds of its role: where two models had the same, they would draw the same numbers and agree too often.

    Requests at temperature 0, for which nothing is drawn, have none.
    """

    model: LanguageModel
    role: str

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        """As the model's own `complete`."""
        return self.model.complete(prompt, self._own(params))

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> TokenStream:
        """As the model's own `stream`."""
        return self.model.stream(prompt, self._own(params), draft)

    def _own(self, params: SamplingParams) -> SamplingParams:
        if params.seed is None or not params.temperature:
            return replace(params, seed=None)
        return replace(params, seed=(params.seed + ROLES.index(self.role) * APART) % SEEDS)
