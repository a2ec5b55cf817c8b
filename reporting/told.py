"""What a run's files say of how it was done: its settings where run.json has them, else the name of its files."""

import re
from dataclasses import dataclass

from datasets_loader import DATA_SETS
from decoding.criteria import CRITERIA
from experiment.settings import BASELINE_METHODS, EXPERIMENTS

MODEL_ROLES = ("base", "nudging", "proxy_chat", "proxy_base")
KINDS = (*EXPERIMENTS[:3], *BASELINE_METHODS)
TOP_PROB = "top_prob"
_NUMBER = "[0-9.e-]+"
_SPLITS = sorted({split for data_set in DATA_SETS.values() for split in data_set.splits}, key=len, reverse=True)
_NAME = re.compile(
    rf"split_(?:{'|'.join(map(re.escape, _SPLITS))}|[^_]+)_(?P<rest>.+)_(?P<num_samples>\d+|None)_samples"
    r"(?:_\d+_answers)?(?:_shard.+)?",
    re.S,
)
_NUDGING = re.compile(
    rf"(?:.*_)?(?P<criterion>{'|'.join(CRITERIA)})(?:_(?P<threshold>{_NUMBER}))?_thres_"
    rf"(?:blend_(?P<blend>auto|{_NUMBER})_)?nudging_(?P<models>.+)",
    re.S,
)
_BASELINE = re.compile(rf"(?:.*_)?(?P<method>{'|'.join(BASELINE_METHODS)})_(?P<models>.+)", re.S)


@dataclass(frozen=True)
class Told:
    """How a run was done.

    `kind` is an experiment of run_api.py or a baseline's method, `models` are the models' names without folders. `criterion`,
    `threshold` (its number) and `blend` are those of nudging. Whatever is not known is None or empty.
    """

    kind: str | None = None
    models: tuple[str, ...] = ()
    num_samples: int | None = None
    criterion: str | None = None
    threshold: float | None = None
    blend: str | None = None


def told_by_settings(settings: dict) -> Told:
    """What run.json's decisive settings say; of an earlier version's a criterion that is not named is the paper's."""
    kind = settings["exp"]
    names = (settings.get(f"{role}_model") for role in MODEL_ROLES)
    criterion = settings.get("criterion", TOP_PROB) if kind == "nudging" else None
    threshold = settings.get("top_prob_thres" if criterion == TOP_PROB else "threshold") if criterion else None
    blend = settings.get("blend")
    return Told(
        settings.get("baseline_method") if kind == "baseline" else kind,
        tuple(re.split(r"[/\\]", name.rstrip("/\\"))[-1] for name in names if name),
        settings.get("num_samples"),
        criterion,
        None if threshold is None else float(threshold),
        None if blend is None else blend if isinstance(blend, str) else f"{blend:g}",
    )


def told_by_name(name: str, records: list[dict]) -> Told:
    """What the name of a run's files says; two models' names joined by "_" are cut where there is but one place."""
    if (match := _NAME.fullmatch(name)) is None:
        return Told(kind="nudging") if any("all_nudging_words" in record for record in records) else Told()
    samples, rest = None if match["num_samples"] == "None" else int(match["num_samples"]), match["rest"]
    if nudging := _NUDGING.fullmatch(rest):
        number = nudging["threshold"]
        how = nudging["criterion"], None if number is None else float(number), nudging["blend"]
        return Told("nudging", _parted(nudging["models"]), samples, *how)
    if baseline := _BASELINE.fullmatch(rest):
        return Told(baseline["method"], _parted(baseline["models"]), samples)
    roles = [role for role in ("base", "nudging") if any(f"full_prefix_{role}" in record for record in records)]
    return Told(f"{roles[0]}_only" if len(roles) == 1 else None, (rest,), samples)


def _parted(models: str) -> tuple[str, ...]:
    return tuple(models.split("_")) if models.count("_") == 1 else (models,)


def engines(metadata: dict) -> str:
    """What computed the answers, in a few words such as "vllm" or "transformers 5.22.0 (cuda:0)"; "" where run.json does not say.

    Models that were computed alike are one, and those of several sessions are all named.
    """
    found: dict[str, None] = {}
    sessions = metadata.get("sessions")
    for session in sessions if isinstance(sessions, list) else []:
        servers = session.get("servers") if isinstance(session, dict) else None
        for told in servers.values() if isinstance(servers, dict) else []:
            for report in told if isinstance(told, list) else [told]:
                if isinstance(report, dict):
                    found.setdefault(_engine(report))
    return ", ".join(filter(None, found))


def _engine(report: dict) -> str:
    engine = report.get("engine") if isinstance(report.get("engine"), str) else ""
    device = report.get("device_name") or report.get("device")
    if not engine:
        return "a server that does not name its engine"
    return f"{engine} ({device})" if isinstance(device, str) and device else engine
