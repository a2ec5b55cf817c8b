"""Configs of sweeps for tests."""

from pathlib import Path

PAIR = """
[[pairs]]
name = "small"
base_model = "base-lm"
base_host = "{host}"
nudging_model = "llama-2-chat"
nudging_host = "{host}"
"""


def write(folder: Path, text: str, host: str = "http://localhost:1/v1") -> Path:
    path = folder / "sweep.toml"
    top = f'output_dir = "{folder}/out"\ndata_dir = "{folder}"\n'
    path.write_text(top + (text if "[[pairs]]" in text else text + PAIR).replace("{host}", host))
    return path
