"""The nudging loop: a base model writes, and where it is uncertain a small aligned model writes the next words.

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300), section 3.
The rules in detail, repetition tests included, are those of the published program, so that answers are the same to the character.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from language_models import Completion, ContextLengthError, LanguageModel, Token
from utils import clean_answer, count_tokens

MAX_ROUNDS = 150
MAX_REPEATS = 3
# A chunk of more words than this that stands in the text already is a repetition.
REPETITION_WORDS = 5


@dataclass(frozen=True)
class NudgingSettings:
    """Settings of the nudging loop; the names are those of the command-line options.

    `top_prob_thres` (gamma in the paper) is a probability: below it the base model counts as uncertain.
    `completion_token_num` and `completion_token_num_nudging` are the tokens asked for per call, in each model's own tokens;
    `max_token_total` is the length of the answer in cl100k_base tokens.
    """

    top_prob_thres: float = 0.3
    completion_token_num: int = 16
    completion_token_num_nudging: int = 16
    max_token_total: int = 512
    base_temperature: float = 0.0
    base_top_p: float = 0.9
    nudging_temperature: float = 0.0


@dataclass
class NudgingResult:
    """An answer in the making and its record.

    `nudging_words[i]` are the words of the nudging model that open `pieces[i]`; the pieces joined are the uncleaned answer.
    """

    pieces: list[str] = field(default_factory=list)
    nudging_words: list[str] = field(default_factory=list)
    stop_reason: str = ""

    @property
    def text(self) -> str:
        """The answer so far, uncleaned."""
        return "".join(self.pieces)

    @property
    def answer(self) -> str:
        """The answer, cleaned."""
        return clean_answer(self.text)


def candidate_heads(nudging_text: str) -> Iterator[tuple[str, str]]:
    """The places where the base model may take over from the nudging model: (text before, next word with its space).

    Words are what single spaces separate; newlines stay inside words, empty words (of double spaces) are no places.
    """
    spaces, words = _split_words(nudging_text)
    for i in range(1, len(words)):
        if words[i]:
            yield spaces + " ".join(words[:i]), " " + words[i]


def all_but_last_word(nudging_text: str) -> str:
    """The text without its last word, which a token limit may have cut; the whole text if it is one word only."""
    spaces, words = _split_words(nudging_text)
    return spaces + " ".join(words[:-1]) if len(words) > 1 else nudging_text


def _split_words(text: str) -> tuple[str, list[str]]:
    rest = text.lstrip(" ")
    return text[: len(text) - len(rest)], rest.split(" ")


def before_uncertain(tokens: tuple[Token, ...], threshold: float) -> tuple[str, bool]:
    """The text of the tokens before the first uncertain one, and whether there is an uncertain one."""
    for i, token in enumerate(tokens):
        if token.top_prob < threshold:
            return "".join(t.text for t in tokens[:i]), True
    return "".join(t.text for t in tokens), False


class _Nudging:
    """One sample's run of the loop."""

    def __init__(self, base, nudging, base_prompt, nudging_prompt, settings: NudgingSettings):
        self.base: LanguageModel = base
        self.nudging: LanguageModel = nudging
        self.base_prompt: str = base_prompt
        self.nudging_prompt: str = nudging_prompt
        self.settings = settings
        self.result = NudgingResult()

    def ask_base(self, text: str) -> Completion:
        s = self.settings
        return self.base.complete(
            self.base_prompt + text,
            max_tokens=s.completion_token_num,
            temperature=s.base_temperature,
            top_p=s.base_top_p,
            logprobs=1,
        )

    def ask_nudging(self, text: str) -> Completion:
        s = self.settings
        return self.nudging.complete(
            self.nudging_prompt + text,
            max_tokens=s.completion_token_num_nudging,
            temperature=s.nudging_temperature,
        )

    def take_over(self, output: str, nudging_text: str) -> tuple[str, Completion | None]:
        """The nudging words that are kept, and the base completion after them (None: the base model does not take over)."""
        for head, next_word in candidate_heads(nudging_text):
            completion = self.ask_base(output + head)
            first = completion.tokens[0]
            # The base model may go on where it agrees with the nudging model's next word, however uncertain it is.
            if next_word.startswith(first.text) or first.top_prob >= self.settings.top_prob_thres:
                return head, completion
        return all_but_last_word(nudging_text), None

    def base_goes_on(self, completion: Completion) -> None:
        """Append the base model's words to the open piece, until it is uncertain, repeats itself, or ends."""
        result, s = self.result, self.settings
        output = result.text
        limit = s.max_token_total - count_tokens(output)
        added = completion.tokens[0].text
        result.pieces[-1] += added
        chunk: tuple[Token, ...] | None = completion.tokens[1:]
        ended = False  # the completion that brought the nudging words to their end does not count as an ending
        while count_tokens(added) < limit:
            if chunk is None:
                completion = self.ask_base(output + added)
                chunk, ended = completion.tokens, completion.finish_reason == "stop"
            if "".join(token.text for token in chunk) in added:
                return
            accepted, uncertain = before_uncertain(chunk, s.top_prob_thres)
            if len(accepted.split(" ")) > REPETITION_WORDS and accepted in output + added:
                return
            added += accepted
            result.pieces[-1] += accepted
            if uncertain or ended:
                return
            chunk = None

    def run(self, on_round: Callable[[int, str, str], None] | None) -> NudgingResult:
        result, s = self.result, self.settings
        last_words, repeats, rounds = "", 0, 0
        while count_tokens(output := result.text) < s.max_token_total and rounds < MAX_ROUNDS:
            rounds += 1
            proposal = self.ask_nudging(output)
            if proposal.finish_reason == "stop":
                if proposal.text:
                    result.nudging_words.append(proposal.text)
                    result.pieces.append(proposal.text)
                result.stop_reason = "nudging_model_stop"
                if on_round:
                    on_round(rounds, proposal.text, proposal.text)
                return result
            words, completion = self.take_over(output, proposal.text)
            repeats = repeats + 1 if words == last_words else 0
            if repeats >= MAX_REPEATS:
                result.stop_reason = "repeated_nudging_words"
                return result
            last_words = words
            result.nudging_words.append(words)
            result.pieces.append(words)
            if completion is not None and completion.text:
                self.base_goes_on(completion)
            if on_round:
                on_round(rounds, words, result.pieces[-1])
        result.stop_reason = "round" if rounds >= MAX_ROUNDS else "length"
        return result


def nudge(
    base: LanguageModel,
    nudging: LanguageModel,
    base_prompt: str,
    nudging_prompt: str,
    settings: NudgingSettings,
    on_round: Callable[[int, str, str], None] | None = None,
) -> NudgingResult:
    """Answer one prompt by nudging (paper, section 3).

    Args:
        base: the large base model; must give log-probabilities.
        nudging: the small aligned model.
        base_prompt, nudging_prompt: the prompt in each model's own template, before any answer text.
        settings: see NudgingSettings.
        on_round: called after every round with (round number from 1, nudging words, piece of this round).

    Returns:
        The answer with its record. `stop_reason` is one of nudging_model_stop, repeated_nudging_words, round, length,
        context_length (a prompt no longer fits into a model's context window; the text so far is kept).

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    loop = _Nudging(base, nudging, base_prompt, nudging_prompt, settings)
    try:
        return loop.run(on_round)
    except ContextLengthError:
        loop.result.stop_reason = "context_length"
        return loop.result
