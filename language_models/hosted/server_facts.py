"""What servers tell of themselves, each at a path of its own: version, number format, device, speculation."""

import time
from collections.abc import Callable

from language_models.hosted.background import begin
from language_models.hosted.http import shorten
from language_models.hosted.server_report import ServerReport

FACT_SECONDS = 3.0  # for all of them together; what is told later is not waited for

# Below the host's root: for fields of the report the keys that lead to them. The first path that tells a version is believed.
TOLD_AT: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = (
    ("/version", {"version": ("version",)}),  # vLLM, which tells nothing else
    (
        "/props",  # llama.cpp
        {
            "version": ("build_info",),
            "number_format": ("model_ftype",),
            "speculation": ("default_generation_settings", "params", "speculative.types"),
        },
    ),
    (
        "/get_server_info",  # SGLang
        {
            "version": ("version",),
            "number_format": ("dtype",),
            "device": ("device",),
            "speculation": ("speculative_algorithm",),
        },
    ),
    (
        "/info",  # TGI
        {"version": ("version",), "number_format": ("model_dtype",), "device": ("model_device_type",)},
    ),
)
_MISSING = object()


def add_facts(read: Callable[[str], object], report: ServerReport) -> None:
    """Fill in what a server tells of itself; what is told in another shape, or not in seconds, stays None.

    Args:
        read: the JSON at a path below the host's root, None where there is none. It is called for all paths side by side.
    """
    until = time.monotonic() + FACT_SECONDS
    reading = [begin(lambda path=path: read(path)) for path, _ in TOLD_AT]
    for answer, (_, fields) in zip(reading, TOLD_AT, strict=True):
        try:
            told = answer.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            continue
        if not isinstance(_at(told, fields["version"]), str):
            continue
        for field, keys in fields.items():
            value = _at(told, keys)
            if isinstance(value, str):
                setattr(report, field, shorten(value))
            elif field == "speculation" and value is None:
                report.speculation = "none"
        return


def _at(told: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        if not isinstance(told, dict):
            return _MISSING
        told = told.get(key, _MISSING)
    return told
