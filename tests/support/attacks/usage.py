"""Attacks on the options alone; the shortest there are."""

from attack import Attack, run_command


def option(*options: object):
    return lambda folder: run_command("run_api.py", *options, "--output_dir", folder)


ATTACKS = [
    Attack("options", "no model", option("--exp", "nudging"), exit_code=2, says="--exp nudging needs --base_model"),
]
