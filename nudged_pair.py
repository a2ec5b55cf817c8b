"""A nudged pair for scripts and notebooks: load it, have it answer, read along. docs/python.md has examples.

    from nudged_pair import NudgedPair

    with NudgedPair.load(base="demo-base", nudging="demo-aligned", top_prob_thres=0.4) as pair:
        print(pair.answer("How many days are in two weeks?"))
        for piece in pair.stream("Name three fruits."):
            print(piece.text, end="", flush=True)

The answers are those of run_api.py for the same prompts (Fei, Razeghi, Singh, ACL 2025, arXiv 2410.09300).
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing

from answering.answer import Answer
from answering.arguments import in_python, load_settings, own_criterion
from answering.closing import OpenAnswers
from answering.conversations import ConversationError, Prompts, turns_of, write_prompts
from answering.decoding import Decoding
from answering.endings import StopSequences, TokenLimit
from answering.many import AnswersError, answers_side_by_side
from answering.sampling import Asked, By, asked_by, check_whole
from answering.settings import LoadSettings
from answering.startup import wait_for_servers
from answering.yardstick import Cl100kTokenizer
from command.console import Command
from command.errors import UserError
from decoding.criteria import CRITERIA, Criterion
from experiment.connect import Lengths, connect
from experiment.prompts import PromptBuilder, prompt_builders
from experiment.sample import used_request_mode
from language_models.cancelling import Cancellation
from language_models.hosted.llama_cpp import TOKENS_PER_CL100K_TOKEN
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import SharedModel
from language_models.tokenizing import TextTokenizer
from nudging import Piece

__all__ = ["AnswerStream", "AnswersError", "NudgedPair"]
COMMAND = Command("nudged_pair")
Question = str | Sequence[dict] | Prompts
MOST_THREADS = 10_000


class AnswerStream:
    """An answer while it is written: an iterator over its pieces, each as soon as it is final.

    `answer` is its record, whole once the last piece has been read.
    """

    def __init__(self, pair: "NudgedPair", prompts: Prompts, asked: Asked):
        self.answer = Answer()
        self.prompts, self.asked = prompts, asked
        self._cancellation = Cancellation()
        self._pieces = self._write(pair)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        """The next piece.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            ModelError: a model did not answer, after all retries.
            Cancelled: see `cancel`.
            PairClosedError: the pair was closed.
        """
        return next(self._pieces)

    def cancel(self) -> None:
        """End the writing, from any thread; whoever reads gets Cancelled."""
        self._cancellation.cancel()

    def close(self) -> None:
        """End the writing, from the thread that reads."""
        self._pieces.close()

    def _write(self, pair: "NudgedPair") -> Generator[Piece, None, None]:
        answer, asked = self.answer, self.asked
        stops = StopSequences(asked.stops)
        # One model alone counts its own tokens.
        limit = TokenLimit(pair.tokenizer, asked.max_tokens) if asked.max_tokens and asked.by == "pair" else None
        with (
            pair.open_answers.writing(self._cancellation),
            closing(pair.decoding.parts(self.prompts, asked, self._cancellation, answer)) as parts,
        ):
            reason = None
            while reason is None:
                try:
                    part = next(parts)
                except StopIteration as end:
                    reason = end.value
                    break
                for within in limit.add(part) if limit else (part,):
                    for final in stops.add(within):
                        answer.add(final)
                        yield final.piece
                if stops.found:
                    reason = "stop_sequence"
                elif limit and limit.reached:
                    reason = "max_tokens"
        for final in stops.rest():
            answer.add(final)
            yield final.piece
        answer.stop_reason = "stop_sequence" if stops.found else reason


class NudgedPair:
    """A base model and a small aligned one that nudges it, ready to answer; safe to use from many threads."""

    def __init__(
        self,
        settings: LoadSettings,
        models: dict[str, SharedModel],
        builders: dict[str, PromptBuilder],
        criterion: str | Criterion = "top_prob",
        servers: ExitStack | None = None,
    ):
        """See `load` and `open`.

        Args:
            servers: what is closed with the pair.
        """
        self.settings, self.models, self.builders, self.criterion = settings, models, builders, criterion
        own = {role: model.tokenizer() for role, model in models.items()}
        self.has_own_tokenizer = own["base"] is not None
        self._tokenizers: dict[str, TextTokenizer] = {role: one or Cl100kTokenizer() for role, one in own.items()}
        mode = used_request_mode(settings, models)
        self.decoding = Decoding(settings, models, self._tokenizers, criterion, mode)
        self._servers = servers or ExitStack()
        self.open_answers = OpenAnswers()

    @classmethod
    def load(
        cls,
        base: str,
        nudging: str,
        *,
        base_host: str | None = None,
        nudging_host: str | None = None,
        criterion: str | Criterion = "top_prob",
        say: Callable[[str], None] = COMMAND.note,
        **options,
    ) -> "NudgedPair":
        """Load a pair, or connect to the servers of its models.

        Args:
            base, nudging: each model's name as its server has it; a GGUF file, a bundled model's name, or a folder or hub id of a
                transformers model, which this process runs itself; or the base URL of a server with one model.
            base_host, nudging_host: base URLs of the models that are named as their servers have them.
            criterion: when the base model is certain: a key of CRITERIA, or one's own.
            say: is told what is loaded, and warnings.
            options: those of serve_nudged.py that concern models and decoding, such as top_prob_thres, nudging_template, device,
                num_threads (how many answers are asked for at once).

        Raises:
            OptionError, ModelError, EmbeddedServerError: something cannot be; the message says what, and what to do.
        """
        if isinstance(criterion, Criterion):
            options |= {"logprobs": criterion.logprobs, "nudging_logprobs": criterion.nudging_logprobs}
        elif criterion in CRITERIA:
            options["criterion"] = criterion
        names, hosts = {"base": base, "nudging": nudging}, {"base": base_host, "nudging": nudging_host}
        try:
            if isinstance(criterion, Criterion):
                criterion = own_criterion(criterion, options)
            return cls.open(load_settings(names, hosts, options), criterion, lambda words: say(in_python(words)))
        except UserError as error:
            error.args = (in_python(str(error)),)
            raise

    @classmethod
    def open(cls, settings: LoadSettings, criterion: str | Criterion, say: Callable[[str], None]) -> "NudgedPair":
        """The pair of some settings; see `load`."""
        Asked(criterion=criterion)  # raises that there is no such criterion
        builders = prompt_builders(settings, say)
        wait_for_servers(settings, say)
        with ExitStack() as servers:
            room = Lengths((), lambda: settings.context_length // TOKENS_PER_CL100K_TOKEN)
            models = connect(settings, room, servers, say)
            return cls(settings, models, builders, criterion, servers.pop_all())

    @property
    def tokenizer(self) -> TextTokenizer:
        """The base model's; cl100k_base where its server says nothing of it (`has_own_tokenizer`)."""
        return self._tokenizers["base"]

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and answer can have together, in the model with the smaller window; None where it is not known."""
        return self.decoding.context_length

    @property
    def request_mode(self) -> str:
        """How the models are asked: "published" or "streamed"."""
        return self.decoding.request_mode

    def set_patience(self, max_retries: int, max_outage: float) -> None:
        """How long failed requests are sent again from now on; see the options of these names."""
        policy = RetryPolicy(max_retries, max_outage, max_outage)
        for model in self.models.values():
            if isinstance(model, Replicas):
                model.set_retry_policy(policy)

    def count(self, text: str, by: By = "pair", special: bool = False) -> int:
        """The tokens of a text, in those of the model that is asked, or of the pair's base model.

        Args:
            special: with the beginning of sequence, which a prompt has.

        Raises:
            ModelError: the tokenizer's server does not answer.
        """
        return len(self._tokenizers["base" if by == "pair" else by].encode(text, special))

    def prompt_tokens(self, prompts: Prompts, by: By = "pair") -> int:
        """The tokens of a prompt; see `count`."""
        return self.count(prompts.nudging if by == "nudging" else prompts.base, by, special=True)

    def __enter__(self) -> "NudgedPair":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End what is being written, what this process runs of the pair, and the connections to its servers."""
        self.open_answers.close()
        self._servers.close()

    def prompts(self, question: Question, *, system: str | None = None, continued: bool = False) -> Prompts:
        """What each model is asked.

        Args:
            question: a text, or a conversation of messages {"role", "content"}; prompts stay as they are.
            system: a system text in front of a text.
            continued: the answer goes on with the conversation's last message, the assistant's.

        Raises:
            ConversationError: it is no conversation that can be answered.
            PromptError: a template refuses it.
        """
        if isinstance(question, Prompts):
            return question
        if isinstance(question, str):
            question = [{"role": "user", "content": question}]
            question[:0] = [{"role": "system", "content": system}] if system is not None else []
        return write_prompts(turns_of(question), self.builders, continued)

    def stream(self, question: Question, *, system: str | None = None, **asked) -> AnswerStream:
        """Have a question answered, piece by piece.

        Args:
            question, system: see `prompts`.
            asked: the fields of Asked, such as top_prob_thres, max_tokens, stop, temperature, seed.

        Raises:
            AskedError, ConversationError, PromptError: it cannot be asked so; what reading raises: see AnswerStream.
        """
        return AnswerStream(self, self.prompts(question, system=system), asked_by(asked))

    def answer(self, question: Question, *, system: str | None = None, **asked) -> Answer:
        """The answer to a question; arguments and errors are those of `stream`."""
        stream = self.stream(question, system=system, **asked)
        with closing(stream):
            for _ in stream:
                pass
        return stream.answer

    def answers(
        self, questions: Iterable[Question], *, system: str | None = None, num_threads: int | None = None, **asked
    ) -> list[Answer]:
        """The answers to several questions, in their order.

        Args:
            num_threads: how many are answered at once; None: as many as the pair was loaded for.

        Raises:
            AskedError: none can be asked so.
            AnswersError: some could not be answered; it has the answers to the others.
        """
        if isinstance(questions, str | Prompts) or not isinstance(questions, Iterable):
            raise ConversationError("answers takes a list of questions; answer takes one", "questions")
        questions, how = list(questions), asked_by(asked)
        check_whole("num_threads", num_threads, 1, MOST_THREADS)

        def begin(index: int) -> AnswerStream:
            return AnswerStream(self, self.prompts(questions[index], system=system), how)

        return answers_side_by_side(len(questions), begin, num_threads or self.settings.num_threads)
