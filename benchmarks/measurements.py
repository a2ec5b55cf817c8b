"""Sections of a benchmark run one after another within a time; what they found is a table, and a file written after each of them.

Needs torch, transformers and what these need, alone.
"""

import contextlib
import gc
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from command.files import write_atomically
from command.provenance import git_commit, now, versions

GRACE_S = 60  # nothing may outlast the budget by more: a hang on the device would take the results along
TRACE_LINES = 14

# Of the table: key of a row, heading, and how it is written.
COLUMNS = (
    ("section", "what", str),
    ("engine", "engine", str),
    ("at_a_time", "at a time", str),
    ("tokens", "tokens", str),
    ("speed", "tokens/s", "{:.1f}".format),
    ("spread", "min to max", lambda pair: "{:.1f} to {:.1f}".format(*pair)),
    ("of_alone", "of base alone", "{:.2f}".format),
    ("of_generate", "of generate", "{:.2f}".format),
    ("base_per_token", "base: passes/token", "{:.2f}".format),
    ("base_samples", "samples/pass", "{:.1f}".format),
    ("base_ms", "ms/pass", "{:.2f}".format),
    ("other_per_token", "other: passes/token", "{:.2f}".format),
    ("other_samples", "samples/pass", "{:.1f}".format),
    ("other_ms", "ms/pass", "{:.2f}".format),
    ("outside", "outside passes", "{:.0%}".format),
    ("speed_in_passes", "tokens/s without", "{:.0f}".format),
    ("peak_gb", "peak GB", "{:.1f}".format),
    ("texts", "texts", str),
)


class TooSlow(Exception):
    """A section has taken longer than it may."""


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on: card, driver, versions, processor."""
    found: dict[str, Any] = {"time": now(), "commit": git_commit(), "device": str(device), "card": None}
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        found |= {
            "card": facts.name,
            "memory_gb": round(facts.total_memory / 1e9, 1),
            "driver": _driver(),
            "cuda": torch.version.cuda,
        }
    return found | {
        "versions": versions(["torch", "transformers", "triton", "tokenizers"]) | {"torch": torch.__version__},
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return said[0] if said else None


class Measurements:
    """What has been measured so far, in a file of JSON."""

    def __init__(self, folder: Path, name: str, options: dict[str, Any], about: dict[str, Any]):
        """Raises OSError where the folder cannot be made."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.json"
        self.rows: list[dict[str, Any]] = []
        self.found: dict[str, Any] = {
            "options": options,
            "machine": about,
            "rows": self.rows,
            "sections": {},
            "seconds": {},
            "errors": {},
            "left_out": [],
        }

    def add(self, row: dict[str, Any], speeds: list[float]) -> dict[str, Any]:
        """A row of the table, with the speeds of several runs: their median, least and most."""
        row |= {"speed": median(speeds), "spread": [min(speeds), max(speeds)], "speeds": speeds}
        self.rows.append(row)
        return row

    def write(self) -> None:
        """Bring the file up to date."""
        self._compare()
        write_atomically(self.path, json.dumps(self.found, indent=1, default=str) + "\n")

    def _compare(self) -> None:
        """Put each row beside the base model alone in the same engine, and beside transformers' generate."""
        speeds = {(row["section"], row["engine"], row["at_a_time"]): row["speed"] for row in self.rows}
        for row in self.rows:
            alone = speeds.get(("alone", row["engine"], row["at_a_time"]))
            generate = speeds.get(("generate", "transformers", row["at_a_time"]))
            row["of_alone"] = row["speed"] / alone if alone else None
            row["of_generate"] = row["speed"] / generate if generate else None

    @property
    def table(self) -> str:
        """All rows, as a table in Markdown."""
        self._compare()
        lines = [[heading for _, heading, _ in COLUMNS]]
        for row in self.rows:
            lines.append(["" if row.get(key) is None else shown(row[key]) for key, _, shown in COLUMNS])
        widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join(
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        )


class Sections:
    """Runs sections while there is time; what goes wrong in one is told, and the others go on."""

    def __init__(self, measurements: Measurements, budget_s: float, only: list[str], skip: list[str]):
        """`only` and `skip` name sections ("nudging@8/graphs"), or the part before the "/" or the "@"; all are run by default."""
        self.measurements, self.budget_s = measurements, budget_s
        self.only, self.skip = only, skip
        self._began = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.budget_s - (time.monotonic() - self._began)

    def say(self, *what: object) -> None:
        """A line with the seconds since the beginning."""
        print(f"[{time.monotonic() - self._began:6.1f}]", *what, flush=True)

    def wanted(self, name: str) -> bool:
        """Whether a section is to be run."""
        names = {name, name.partition("/")[0], name.partition("@")[0].partition("/")[0]}
        return not names & set(self.skip) and (not self.only or bool(names & set(self.only)))

    def run(self, name: str, work: Callable[[], Any], need_s: float = 3.0) -> bool:
        """Run a section if it is wanted and there is time for it; whether all went well.

        Raises:
            KeyboardInterrupt: what was found is written.
        """
        if not self.wanted(name):
            return True
        found = self.measurements.found
        if self.left < need_s:
            found["left_out"].append(name)
            self.say(f"{name}: left out, {max(0, self.left):.0f} s are left and it needs some {need_s:.0f}")
            self.measurements.write()
            return False
        began = time.monotonic()
        self.say(f"== {name}")
        try:
            result = work()
            if result is not None:
                found["sections"][name] = result
                self.say(json.dumps(result, default=str))
        except Exception as error:  # libraries raise all kinds, and the other sections are worth having
            self._fail(name, error)
        finally:
            found["seconds"][name] = round(time.monotonic() - began, 1)
            gc.collect()
            if torch.cuda.is_available():
                with contextlib.suppress(RuntimeError):  # after an error of the device everything fails
                    torch.cuda.empty_cache()
            self.measurements.write()
        return name not in found["errors"]

    def _fail(self, name: str, error: Exception) -> None:
        lines = "".join(traceback.format_exception(error)).strip().splitlines()
        self.measurements.found["errors"][name] = lines[-TRACE_LINES:]
        self.say(f"!! {name} failed: {lines[-1][:300]}")
        # The frames hold tensors.
        traceback.clear_frames(error.__traceback__)

    def _watch(self) -> None:
        time.sleep(max(1.0, self.budget_s + GRACE_S))
        self.measurements.found["errors"]["time"] = f"over the budget by {GRACE_S} s: ended"
        with contextlib.suppress(Exception):
            self.measurements.write()
        print(f"!! over the budget by {GRACE_S} s: ended; {self.measurements.path}", file=sys.stderr, flush=True)
        os._exit(3)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the main thread after so many seconds."""

    def ring(*_):
        raise TooSlow(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Device:
    """The device's clock and memory."""

    def __init__(self, device: torch.device):
        self.device, self.cuda = device, device.type == "cuda"

    def wait(self) -> None:
        """Until all that was started is done."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def reset_peak(self) -> None:
        """Measure the most memory from now on; not possible on a CPU, where it is the process's own peak."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak_gb(self) -> float:
        """Of the memory that torch has had."""
        if self.cuda:
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def milliseconds(self, work: Callable[[], Any], repeats: int = 10) -> list[float]:
        """Of each of some runs, after one that does not count, with the device's work."""
        times = []
        for _ in range(1 + repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(1000 * (time.perf_counter() - began))
        return times[1:]
