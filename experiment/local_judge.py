"""A transformers model in this process as the judge, asked in its own chat template."""

import time
from collections.abc import Callable

from command.errors import OptionError
from experiment.judge_settings import JudgeSettings
from experiment.prompts import PromptBuilder
from language_models.interface import ChatReply, SamplingParams
from language_models.local.chat_template import tokenizer_prompt_writer
from language_models.local.loading import load_tokenizer, require_torch

ANSWERS_AT_ONCE = 16  # more of them take memory for their caches and gain little


class LocalChatModel:
    """A model of this process that replies in at most `reply_tokens` tokens; see ChatModel.

    Raises:
        OptionError, ModelError: a package or the model is missing, it cannot be loaded, or has no chat template.
    """

    def __init__(self, name: str, settings: JudgeSettings, reply_tokens: int, say: Callable[[str], None]):
        require_torch()
        from language_models.local.model import LocalModel

        self.name, self.reply_tokens = name, reply_tokens
        self.num_threads = min(settings.num_threads, ANSWERS_AT_ONCE)
        writer = tokenizer_prompt_writer(load_tokenizer(name), name)
        if writer is None:
            raise OptionError(
                f"--judge_model {name} has no chat template; choose a model that was trained to follow instructions"
            )
        self.write = PromptBuilder(writer, f"of the judge {name}")
        started = time.monotonic()
        how = {"device": settings.device, "dtype": settings.dtype, "engine": settings.engine}
        self.model = LocalModel.load(name, samples=self.num_threads, **how)
        say(f"the judge is {self.model.in_words} ({time.monotonic() - started:.1f} s)")
        for line in (*self.model.notes, *(f"warning: {warning}" for warning in self.model.warnings)):
            say(line)

    def ask(self, instructions: str, question: str) -> ChatReply:
        """The reply with the most probable words.

        Raises:
            ContextLengthError: there is no room for a reply.
            PromptError: the question cannot be written in the model's chat template.
        """
        prompt = self.write(instructions, question)
        room = self.model.context_length - len(self.model.vocabulary.encode(prompt))
        completion = self.model.complete(prompt, SamplingParams(max_tokens=max(1, min(room, self.reply_tokens))))
        return ChatReply(completion.text, completion.finish_reason)
