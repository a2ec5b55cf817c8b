"""Which output of a reward model is its score: one rule for what guides and what scores (both commands of reward-guided decoding).

A model with one output has no choice. Of several, --dimension names one by number or label. Without it a label HUMOR is found by
itself (mohameddhiab/humor-no-humor, of which the published program takes index 1, which is that label); else it is refused.
"""

from typing import TYPE_CHECKING

from command.errors import OptionError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DEFAULT_LABEL = "HUMOR"
OBJECTIVES = (
    *("helpsteer-helpfulness", "helpsteer-correctness", "helpsteer-coherence", "helpsteer-complexity"),
    *("helpsteer-verbosity", "ultrafeedback-overall", "ultrafeedback-instruction-following"),
    *("ultrafeedback-truthfulness", "ultrafeedback-honesty", "ultrafeedback-helpfulness", "beavertails-is_safe"),
    *("prometheus-score", "argilla-overall-quality", "argilla-judge-lm", "code-complexity", "code-style"),
    *("code-explanation", "code-instruction-following", "code-readability"),
)


def is_armorm(config: "PretrainedConfig") -> bool:
    """Whether a configuration is an ArmoRM's: 19 objective rewards (arXiv 2406.12845)."""
    return any("RewardModelWithGating" in name for name in config.architectures or [])


def is_classifier(config: "PretrainedConfig") -> bool:
    """Whether a configuration is a sequence classifier's."""
    return any("SequenceClassification" in name for name in config.architectures or [])


def labels_of(config: "PretrainedConfig") -> dict[str, int]:
    """The outputs by their labels; ArmoRM's by its objectives."""
    if is_armorm(config):
        return {name: i for i, name in enumerate(OBJECTIVES)}
    return {str(label): int(i) for i, label in sorted((config.id2label or {}).items(), key=lambda pair: int(pair[0]))}


def output_of(config: "PretrainedConfig", dimension: str | None, name: str) -> int:
    """The number of the output that is the score of the reward model `name`.

    Args:
        dimension: a number or label, as --dimension has it; None where none is given.

    Raises:
        OptionError: there is no such output, or several and none is named; the message lists them.
    """
    labels = labels_of(config)
    count = len(OBJECTIVES) if is_armorm(config) else config.num_labels
    numbered = {str(i): i for i in range(count)}
    shown = f"0 to {count - 1}, or {', '.join(labels)}" if count > 1 else ", ".join(["0", *labels])
    if dimension is not None:
        found = (labels | numbered).get(str(dimension))
        if found is None:
            raise OptionError(f"--dimension has no choice {dimension!r}; the outputs of {name} are {shown}")
        return found
    if count == 1:
        return 0
    found = {label.upper(): i for label, i in labels.items()}.get(DEFAULT_LABEL)
    if found is None:
        gated = " (its gated overall score needs the model's own code, which is not run)" if is_armorm(config) else ""
        raise OptionError(f"--dimension is needed for {name}: its outputs are {shown}{gated}")
    return found


def described(config: "PretrainedConfig", output: int) -> str:
    """An output for the console: number, label, and of how many."""
    labels = {i: label for label, i in labels_of(config).items()}
    count = len(OBJECTIVES) if is_armorm(config) else config.num_labels
    return f"output {output} of {count}" + (f" ({labels[output]})" if count > 1 and output in labels else "")
