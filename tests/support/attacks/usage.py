"""Attacks on the options alone; the shortest there are."""

from attack import Attack, run_command


def option(*options: object):
    return lambda folder: run_command("run_api.py", *options, "--output_dir", folder)


SERVED = ("--exp", "base_only", "--base_model", "big", "--base_host", "http://127.0.0.1:9/v1")
LOADED = ("--exp", "base_only", "--base_model", "an/id")

ATTACKS = [
    Attack("options", "no model", option("--exp", "nudging"), exit_code=2, says="--exp nudging needs --base_model"),
    Attack(
        "options",
        "a device for a model behind a server",
        option(*SERVED, "--base_device", "cuda:1"),
        exit_code=2,
        says="--base_model big is behind a server: leave the option out",
    ),
    Attack(
        "options",
        "a base model on all GPUs and on one",
        option(*LOADED, "--device_map", "auto", "--base_device", "cuda:0"),
        exit_code=2,
        says="leave out --base_device, or this",
    ),
    Attack(
        "options",
        "graphs of a model over several GPUs",
        option(*LOADED, "--device_map", "auto", "--engine", "graphs"),
        exit_code=2,
        says="needs each model on one device",
    ),
]
