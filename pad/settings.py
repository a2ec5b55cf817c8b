"""What collect_model_outs.py is told, as one checked object."""

import math
from dataclasses import asdict, dataclass

from command.errors import OptionError
from command.paths import expanded, is_folder
from language_models.local.loading import DTYPES
from pad.config import DecodingConfig
from pad.preferences import FRAME, PREFERENCE_AS, Preference, check_frame, from_principles, from_text
from pad.prompts import CHAT_TEMPLATES

RM_TYPES = ("auto", "implicit", "scalar")
REFERENCES = ("llm", "none", "self")
DEVICE_MAPS = ("none", "auto")
BASELINES = ("auto", "on", "off")
DEFAULT_WEIGHT, DEFAULT_TOPK = 1.0, 10
ENGINES = ("auto", "graphs", "packed", "transformers")


@dataclass(frozen=True)
class CollectSettings:
    """Everything that one run of collect_model_outs.py is told; the fields are its options.

    Raises:
        OptionError: at construction, if the settings cannot work.
    """

    config: str | None = None
    out_file: str | None = None
    llm: str | None = None
    rm: str | None = None
    prompt: list[str] | None = None
    dataset: str = "Dahoas/full-hh-rlhf"
    prompt_field: str = "prompt"
    split: str | None = None
    data_dir: str | None = None
    run_percent: float = 100.0
    limit: int | None = None
    sys_prompt: str = ""
    principles: str | None = None
    principles_file: str | None = None
    frame: str | None = None  # FRAME once it is checked
    preference_as: str = "prompt"
    baseline: str = "auto"
    chat_template: str = "auto"
    tokenizer: str | None = None
    rm_type: str = "auto"
    dimension: str | None = None
    ref: str = "llm"
    PAD: str | None = None
    allow_cross_tokenizer: bool = False
    rm_weight: list[float] | None = None
    topk: int | None = None
    answers: int = 1
    max_new_token: int = 128
    stop: list[str] | None = None
    ignore_eos: bool = False
    seed: int = 0
    llm_gpu: str = "cuda:0"
    rm_gpu: str = "cuda:1"
    device_map: str = "none"
    dtype: str = "auto"
    load_in_4bit: bool = False
    engine: str = "auto"
    batch_size: int = 1
    recover: bool = False
    overwrite: bool = False

    def __post_init__(self):
        for option, what in (("llm", "the base LM"), ("out_file", "the files that answers go to, without _0.jsonl")):
            if not getattr(self, option) and not (option == "out_file" and self.prompt):
                raise OptionError(f"--{option} is needed: {what}")
        for option, choices in (
            ("rm_type", RM_TYPES),
            ("chat_template", CHAT_TEMPLATES),
            ("dtype", DTYPES),
            ("engine", ENGINES),
            ("preference_as", PREFERENCE_AS),
            ("baseline", BASELINES),
            ("device_map", DEVICE_MAPS),
        ):
            if getattr(self, option) not in choices:
                raise OptionError(
                    f"--{option} has no choice {getattr(self, option)!r}; choose one of: {', '.join(choices)}"
                )
        for option in ("max_new_token", "batch_size", "answers"):
            _check(getattr(self, option) >= 1, option, "must be at least 1", getattr(self, option))
        _check(self.limit is None or self.limit >= 1, "limit", "must be at least 1", self.limit)
        _check(self.seed >= 0, "seed", "must be 0 or more", self.seed)
        percent = self.run_percent
        _check(math.isfinite(percent) and 0 < percent <= 100, "run_percent", "is above 0 and at most 100", percent)
        for option in ("config", "principles_file"):
            _check(getattr(self, option) != "", option, "names a file", "")
        self._check_preferences()
        self._check_decoding()
        for option in ("config", "out_file", "data_dir", "principles_file"):
            if (value := getattr(self, option)) is not None:
                object.__setattr__(self, option, expanded(value))
        _check(self.data_dir is None or is_folder(self.data_dir), "data_dir", "is not a folder", self.data_dir)
        if self.recover and self.overwrite:
            raise OptionError("--recover goes on with what is there, --overwrite starts afresh: choose one")
        if self.PAD is not None and self.rm_type == "scalar":
            raise OptionError("--PAD is for implicit rewards; leave it out with --rm_type scalar")

    def _check_preferences(self) -> None:
        named = [name for name in ("sys_prompt", "principles", "principles_file") if getattr(self, name)]
        if len(named) > 1:
            raise OptionError(f"--{named[0]} and --{named[1]} both name a preference: choose one")
        if self.frame is None:
            object.__setattr__(self, "frame", FRAME)
        check_frame(self.frame)
        if self.principles is not None:
            self.preference()
        for text in self.prompt or ():
            _check(text.strip() != "", "prompt", "is empty", text)
        _check(self.prompt_field != "", "prompt_field", "names a field of the prompts file", self.prompt_field)

    def _check_decoding(self) -> None:
        if self.config is not None and (self.rm_weight is not None or self.topk is not None):
            raise OptionError("--rm_weight and --topk stand for a --config file: name one of the two")
        for weight in self.rm_weight or ():
            _check(math.isfinite(weight), "rm_weight", "is a number", weight)
            _check(self.rm_weight.count(weight) == 1, "rm_weight", "names each weight once", self.rm_weight)
        _check(self.topk is None or self.topk >= 1, "topk", "must be at least 1", self.topk)
        _check("" not in (self.stop or ()), "stop", "is a text that ends an answer, not an empty one", "")
        if self.device_map == "auto" and self.engine == "graphs":
            raise OptionError("--engine graphs needs each model on one device: leave out --device_map auto, or this")
        if self.device_map == "auto" and self.load_in_4bit:
            raise OptionError("--load_in_4bit puts each model on one device: leave out --device_map auto, or this")

    def preference(self) -> Preference:
        """The preference of --sys_prompt or --principles (OptionError: it is none)."""
        if self.principles is None:
            return from_text(self.sys_prompt, apart=False)
        try:
            return from_principles(self.principles, self.frame)
        except ValueError as error:
            raise OptionError(f"--principles: {error}") from None

    def configs(self) -> list[DecodingConfig]:
        """The configurations of --rm_weight and --topk, greedy, where there is no --config file."""
        weights = [DEFAULT_WEIGHT] if self.rm_weight is None else self.rm_weight
        return [DecodingConfig(weight, DEFAULT_TOPK if self.topk is None else self.topk) for weight in weights]

    def check_configs(self, configs: list[DecodingConfig]) -> None:
        """Raise OptionError if the configurations need a reward model and none is named, or write the same answer several times."""
        if self.answers > 1 and not all(config.samples for config in configs):
            raise OptionError(
                f'--answers {self.answers} is for configurations that draw (--config with "mode": "topk"); a greedy one writes '
                "the same each time"
            )
        if not self.rm and any(config.rm_weight for config in configs):
            raise OptionError("--rm is needed: the reward model (only configurations of rm_weight 0 go without)")

    @property
    def decisive(self) -> dict:
        """The settings on which answers depend: an output is continued only with the same ones."""
        names = ("llm", "rm", "tokenizer", "sys_prompt", "chat_template", "rm_type", "ref", "allow_cross_tokenizer")
        names += ("max_new_token", "ignore_eos", "seed", "dtype", "load_in_4bit", "preference_as", "stop")
        return {name: getattr(self, name) for name in names}

    def written(self) -> dict:
        """All settings, for the file beside the results."""
        return asdict(self)


def _check(holds: bool, option: str, rule: str, value) -> None:
    if not holds:
        raise OptionError(f"--{option} {rule}; it is {value!r}")
