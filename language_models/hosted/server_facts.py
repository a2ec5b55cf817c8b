"""What servers tell of themselves, each at a path of its own: version, number format, device, speculation."""

from collections.abc import Callable

from language_models.hosted.http import shorten
from language_models.hosted.probe import ServerReport

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
    """Fill in what a server tells of itself; what is told in another shape stays None.

    Args:
        read: the JSON at a path below the host's root, None where there is none.
    """
    for path, fields in TOLD_AT:
        told = read(path)
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
