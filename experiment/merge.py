"""Joins the shards of runs (run_api.py --shard i/n) into the files that the unsharded run would have written.

    python scripts/merge_shards.py outputs/gsm8k [--replace]

Every shard has to be there, with all its samples once and the same settings; otherwise nothing is written for that run. The
normal run_api.py command without --shard then continues, scores or just summarises the whole run.
"""

from command.console import Command, visible
from command.files import ResultsError
from command.options import Parser
from command.paths import user_path
from experiment.shards import find_sharded_runs, merge


def main(argv: list[str] | None = None) -> int:
    """Merge; returns the exit code: 0, 1 if a run could not be merged, 2 if there is none."""
    parser = Parser(description="Join the shards of runs into the files of the whole runs.")
    parser.add_argument(
        "results", nargs="+", type=user_path, help="folders, searched all the way down, or shards' files"
    )
    parser.add_argument("--replace", action="store_true", help="move whole runs that are there already aside")
    options = parser.parse_args(argv)

    command = Command("merge_shards.py")

    def work() -> int:
        runs = find_sharded_runs(options.results)
        if not runs:
            raise ResultsError(f"no shards found in {', '.join(map(str, options.results))}")
        code = 0
        for run in runs:
            try:
                print(visible(merge(run, replace=options.replace)))
            except ResultsError as error:
                command.note(f"error: {error}")
                code = 1
        return code

    return command.run(work)
