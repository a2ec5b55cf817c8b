"""The command line of collect_model_outs.py, as one checked settings object."""

import argparse
import math
from dataclasses import asdict, dataclass, fields

from command.errors import OptionError
from command.options import Parser
from command.paths import expanded, is_folder
from language_models.local.loading import DTYPES
from pad.config import DecodingConfig
from pad.prompt_sets import PROMPT_SETS
from pad.prompts import CHAT_TEMPLATES

RM_TYPES = ("auto", "implicit", "scalar")
REFERENCES = ("llm", "none", "self")
ENGINES = ("auto", "graphs", "packed", "transformers")

_EXAMPLES = """\
examples:
  PAD, all three preferences at once:
    python collect_model_outs.py --config configs/psoups_llama3SFT_hhh.config --out_file results/psoups_hhh \\
        --llm princeton-nlp/Llama-3-Base-8B-SFT --rm RuizheChen/PAD --dataset psoups \\
        --sys_prompt "[Guidelines] Your task is to generate response by considering the following principle. \\
[Principles] harmless and helpfulness and humor [Instruction] "
  ARGS, with a sequence classifier as reward model:
    python collect_model_outs.py --config configs/args_greedy.config --out_file results/hh_args \\
        --llm models/llama-7b-sft --rm models/llama-7b-rm --dataset Dahoas/full-hh-rlhf --run_percent 25
"""


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
    dataset: str = "Dahoas/full-hh-rlhf"
    split: str | None = None
    data_dir: str | None = None
    run_percent: float = 100.0
    limit: int | None = None
    sys_prompt: str = ""
    chat_template: str = "auto"
    tokenizer: str | None = None
    rm_type: str = "auto"
    dimension: str | None = None
    ref: str = "llm"
    PAD: str | None = None
    allow_cross_tokenizer: bool = False
    max_new_token: int = 128
    ignore_eos: bool = False
    seed: int = 0
    llm_gpu: str = "cuda:0"
    rm_gpu: str = "cuda:1"
    dtype: str = "auto"
    load_in_4bit: bool = False
    engine: str = "auto"
    batch_size: int = 1
    recover: bool = False
    overwrite: bool = False

    def __post_init__(self):
        for option, what in (
            ("config", "a file of configurations"),
            ("out_file", "where results go"),
            ("llm", "a model"),
        ):
            if not getattr(self, option):
                raise OptionError(f"--{option} is needed: {what}")
        for option, choices in (
            ("rm_type", RM_TYPES),
            ("chat_template", CHAT_TEMPLATES),
            ("dtype", DTYPES),
            ("engine", ENGINES),
        ):
            if getattr(self, option) not in choices:
                raise OptionError(
                    f"--{option} has no choice {getattr(self, option)!r}; choose one of: {', '.join(choices)}"
                )
        for option in ("max_new_token", "batch_size"):
            _check(getattr(self, option) >= 1, option, "must be at least 1", getattr(self, option))
        _check(self.limit is None or self.limit >= 1, "limit", "must be at least 1", self.limit)
        _check(self.seed >= 0, "seed", "must be 0 or more", self.seed)
        percent = self.run_percent
        _check(math.isfinite(percent) and 0 < percent <= 100, "run_percent", "is above 0 and at most 100", percent)
        for option in ("config", "out_file", "data_dir"):
            if (value := getattr(self, option)) is not None:
                object.__setattr__(self, option, expanded(value))
        _check(self.data_dir is None or is_folder(self.data_dir), "data_dir", "is not a folder", self.data_dir)
        if self.recover and self.overwrite:
            raise OptionError("--recover goes on with what is there, --overwrite starts afresh: choose one")
        if self.PAD is not None and self.rm_type == "scalar":
            raise OptionError("--PAD is for implicit rewards; leave it out with --rm_type scalar")

    def check_configs(self, configs: list[DecodingConfig]) -> None:
        """Raise OptionError if the configurations need a reward model and none is named."""
        if not self.rm and any(config.rm_weight for config in configs):
            raise OptionError("--rm is needed: the reward model (only configurations of rm_weight 0 go without)")

    @property
    def decisive(self) -> dict:
        """The settings on which answers depend: an output is continued only with the same ones."""
        names = ("llm", "rm", "tokenizer", "sys_prompt", "chat_template", "rm_type", "ref", "allow_cross_tokenizer")
        names += ("max_new_token", "ignore_eos", "seed", "dtype", "load_in_4bit")
        return {name: getattr(self, name) for name in names}

    def written(self) -> dict:
        """All settings, for the file beside the results."""
        return asdict(self)


def _check(holds: bool, option: str, rule: str, value) -> None:
    if not holds:
        raise OptionError(f"--{option} {rule}; it is {value!r}")


def build_parser() -> argparse.ArgumentParser:
    """The command line of collect_model_outs.py; the defaults are CollectSettings' own."""
    parser = Parser(
        prog="collect_model_outs.py",
        description="Reward-guided generation: PAD (an implicit reward) and ARGS (a scalar reward).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = None
    defaults = {field.name: field.default for field in fields(CollectSettings)}

    def option(name: str, help: str, **how) -> None:
        shown = "" if defaults[name] in (None, "") else " (default: %(default)s)"
        group.add_argument(f"--{name}", default=defaults[name], help=help + shown, **how)

    def flag(name: str, help: str) -> None:
        group.add_argument(f"--{name}", action="store_true", help=help)

    group = parser.add_argument_group("models (folders, hub ids, or bundled names such as demo-aligned)")
    option("llm", "the base LM, whose tokens are chosen among", metavar="MODEL")
    option("rm", "the reward model; not needed where every rm_weight is 0", metavar="MODEL")
    option("rm_type", "implicit (PAD, a causal LM), scalar (ARGS, a sequence classifier), or auto by the model's kind")
    option("dimension", "which output of a classifier with several is the reward: number or label", metavar="N|NAME")
    option("ref", "what an implicit reward is relative to: llm, none, self, or a MODEL", metavar="REF")
    option("PAD", "a label that is kept with the results; says that the reward is implicit", metavar="LABEL")
    option("tokenizer", "another tokenizer than the base LM's own", metavar="MODEL")
    flag("allow_cross_tokenizer", "let an implicit reward model have another tokenizer than the base LM (slow)")
    group = parser.add_argument_group("prompts")
    option("dataset", ", ".join(PROMPT_SETS) + ", or a .json, .jsonl or .txt file", metavar="NAME|FILE")
    option("split", "the data set's split (default: its own)")
    option("data_dir", "read DIR/NAME/SPLIT.jsonl[.gz] in the hub's schema instead of the hub", metavar="DIR")
    option("run_percent", "the first P per cent of the prompts", type=float, metavar="P")
    option("limit", "at most N prompts", type=int, metavar="N")
    option("sys_prompt", "the preference text, put before each prompt", metavar="TEXT")
    option("chat_template", "on, off, or auto: on for implicit rewards where the tokenizer has one")
    group = parser.add_argument_group("decoding")
    option("config", "configurations, one JSON object per line", metavar="FILE")
    option("max_new_token", "the most tokens of an answer", type=int, metavar="N")
    flag("ignore_eos", "go on after the end of an answer, as the published programs do")
    option("seed", "of sampling", type=int, metavar="N")
    option("batch_size", "prompts answered together", type=int, metavar="N")
    group = parser.add_argument_group("machine")
    option("llm_gpu", "the base LM's device: cuda:0, mps, cpu, auto", metavar="DEVICE")
    option("rm_gpu", "the reward model's; a GPU that is not there gives way to cuda:0, then the CPU", metavar="DEVICE")
    option("dtype", "of weights: auto, float32, float16, bfloat16; auto is bfloat16 on GPUs, float32 on CPUs")
    flag("load_in_4bit", "weights in 4 bits (needs bitsandbytes)")
    option(
        "engine",
        "how passes are computed: graphs (replayed from CUDA graphs), packed, transformers (its own passes and cache), or "
        "auto: graphs on CUDA devices, transformers elsewhere and where a model cannot be run otherwise",
    )
    group = parser.add_argument_group("results")
    option(
        "out_file", "PREFIX of the files PREFIX_0.jsonl, PREFIX_1.jsonl, ..., one per configuration", metavar="PREFIX"
    )
    flag("recover", "go on with the files that are there (the default)")
    flag("overwrite", "start afresh; existing files are moved aside")
    return parser
