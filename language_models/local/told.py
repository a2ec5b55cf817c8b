"""What people are told of an engine: how it computes, and what its set-up came to."""

from language_models.local.engine import Engine


def passes_in_words(report: dict) -> str:
    """How forward passes are computed, by `Engine.report`."""
    if report["kind"] != "graphs":
        return report["kind"]
    if not report["graphs"]:
        return "fixed sizes, no CUDA graphs"
    without = len(report["uncaptured"])
    return "CUDA graphs" + (f", {without} sizes without" if without else "")


def set_up_notes(name: str, engine: Engine, asked: str) -> list[str]:
    """Where the set-up of a model's engine took time, or is not what was asked for: a line each."""
    report, notes = engine.report, []
    if report["graphs"]:
        took = f"{name}: captured {report['graphs']} sizes in {report['capture_seconds']:.1f} s"
        if report["kernels"]:
            took += f", Triton's kernels took {report['kernel_seconds']:.1f} s (less in later runs: Triton keeps them)"
        notes.append(took)
    if asked == "graphs" and engine.device.type != "cuda":
        notes.append(
            f"--engine graphs: {name} is on {engine.device}, where passes of fixed sizes run without CUDA graphs, slower "
            "than packed ones"
        )
    return notes + list(engine.fallbacks)
