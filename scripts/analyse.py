"""analysis/command.py as a command."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from command.entry import run_module

if __name__ == "__main__":
    run_module("analysis.command", "analyse.sh")
