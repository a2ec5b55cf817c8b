"""Every attack on the commands, and what came of it: a table.

    python benchmarks/attacks.py [--part PART] [--name WORDS]

Each is a real command in a process of its own (see tests/support/attack.py; the attacks stand in tests/support/attacks).
Exit code 1 where one of them does not end as it should.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "tests/support"
sys.path[:0] = [str(SUPPORT), str(SUPPORT.parents[1])]


def main(argv: list[str] | None = None) -> int:
    """Try the attacks and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="", help="only those of one kind")
    parser.add_argument("--name", default="", help="only those with these words in their name")
    options = parser.parse_args(argv)
    modules = sorted(path.stem for path in (SUPPORT / "attacks").glob("[a-z]*.py"))
    attacks = [attack for module in modules for attack in import_module(f"attacks.{module}").ATTACKS]
    chosen = [attack for attack in attacks if options.part in attack.part and options.name in attack.name]
    print("| kind | attack | exit code | seconds | what is said | wrong |\n|---|---|---|---|---|---|")
    wrong = 0
    for attack in chosen:
        outcome, fault = attack.tried()
        wrong += bool(fault)
        said = (outcome.stderr.strip().splitlines() or [""])[-1][:160].replace("|", "\\|")
        cells = (attack.part, attack.name, outcome.exit_code, f"{outcome.seconds:.1f}", said, fault)
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    print(f"\n{len(chosen) - wrong} of {len(chosen)} end as they should")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
