"""What the probe has found out about a server, as run.json keeps it."""

from dataclasses import dataclass, field

LLAMA_CPP = "llamacpp"  # what that engine calls itself among its models


@dataclass
class ServerReport:
    """What the probe found out about a server.

    `logprobs` is how many a run needs, `max_logprobs` how many the server gives (0: none; None: not looked at).
    `engine`, `version`, `number_format`, `device` and `speculation` are what the server says of itself, None where it says nothing;
    `adds_bos` is looked at for model families that need it. `neutral_sampling` are the fields that hold the server's own defaults
    off, `left_out` those of requests that it refuses. `streams` and `streams_logprobs` are whether the run's streams can be read
    (None: not looked at), `why_not_streamed` in the server's words why not.
    """

    host: str
    model: str
    served_models: list[str] = field(default_factory=list)
    logprobs: int | None = None
    engine: str | None = None
    version: str | None = None
    number_format: str | None = None
    device: str | None = None
    speculation: str | None = None
    max_logprobs: int | None = None
    prints_tokens_as: str = "text"
    end_names_seen: list[str] = field(default_factory=list)
    neutral_sampling: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    streams: bool | None = None
    streams_logprobs: bool | None = None
    stream_options: dict[str, bool] = field(default_factory=dict)
    why_not_streamed: str | None = None
    adds_bos: bool | None = None
    warnings: list[str] = field(default_factory=list)
