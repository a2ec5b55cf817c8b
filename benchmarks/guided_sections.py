"""Sections of gpu_nudging.py for reward-guided decoding: PAD and ARGS, one pass of each model for a token, by pad.decoding."""

from collections.abc import Callable
from dataclasses import dataclass

from answer_sections import AnswerSections
from markov_pair import CONTEXT_LENGTH
from priced_passes import PricedEngine

from pad.decoding import Reward, decode
from pad.implicit_reward import CandidateLogits, ImplicitReward
from pad.prompts import Prompt
from pad.scalar_reward import TreeReward
from pad.sequences import SequenceMaker, Sequences


@dataclass(frozen=True)
class Greedy:
    """A pad.config.DecodingConfig, which needs pydantic, as far as the loop reads it."""

    rm_weight: float
    topk: int = 10
    samples: bool = False
    temperature: float = 1.0


class GuidedSections:
    """Rows like those of AnswerSections; the reward models have the base model's shape unless --reward names another."""

    def __init__(self, answers: AnswerSections):
        self.answers, self.models = answers, answers.models

    def pad(self, at_a_time: int, kind: str) -> None:
        """PAD: the reward is another language model's log-probabilities of the candidates."""

        def reward(maker: SequenceMaker) -> tuple[Reward, Sequences]:
            policy = CandidateLogits(self.models.plain("reward"))
            policy.use(lambda network: maker.make(network, "reward model"))
            return ImplicitReward(policy), policy.states

        self._guided("pad", at_a_time, kind, reward, Greedy(1.0))

    def args(self, at_a_time: int, kind: str) -> None:
        """ARGS: the reward is a classifier's, which reads all candidates as a tree."""

        def reward(maker: SequenceMaker) -> tuple[Reward, Sequences]:
            classifier = self.models.plain("classifier")
            states = maker.make(classifier.base_model, "classifier", trees=True)
            return TreeReward(classifier, states=states), states

        self._guided("args", at_a_time, kind, reward, Greedy(1.5))

    def _guided(
        self,
        section: str,
        at_a_time: int,
        kind: str,
        make_reward: Callable[[SequenceMaker], tuple[Reward, Sequences]],
        config: Greedy,
    ) -> None:
        if kind == PricedEngine.kind:
            raise ValueError("there are no prices for reward-guided decoding")
        models, options = self.models, self.models.options
        models.drop()
        refused: list[str] = []
        maker = SequenceMaker(kind, at_a_time, CONTEXT_LENGTH, refused.append)
        lm = maker.make(models.plain("base"), "base LM")
        reward, states = make_reward(maker)
        number = self.answers.answers(at_a_time)
        prompts = [
            Prompt(n, "", "", tuple(models.tokenizer(text)["input_ids"]))
            for n, (text, _) in enumerate(models.prompts(number))
        ]

        def answered(some: list[Prompt], tokens: int) -> list[str]:
            found = decode(lm, reward, some, config, max_new=[tokens] * len(some))
            return models.tokenizer.batch_decode([answer.tokens for answer in found])

        def answer_all() -> list[str]:
            batches = (prompts[i : i + at_a_time] for i in range(0, number, at_a_time))
            return [text for some in batches for text in answered(some, options.tokens)]

        try:
            answered(prompts[:at_a_time], min(8, options.tokens))  # warms up
            self.answers.of_passes(section, lm.kind, at_a_time, answer_all, [lm, states], refused)
        finally:
            models.drop()
