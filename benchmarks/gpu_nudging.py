#!/usr/bin/env python
"""Speed of the in-process engine on a GPU, on synthetic models of real size: beside the floor, transformers, and the base alone.

    python benchmarks/gpu_nudging.py --out results                          7b nudged by 1.1b, some six minutes on an H100
    python benchmarks/gpu_nudging.py --base 13b --only alone nudging        some sections
    python benchmarks/gpu_nudging.py --scale tiny                           on a CPU, to see that it runs: under a minute
    python benchmarks/gpu_nudging.py --prices h100                          predictions where there is no GPU

It needs torch, transformers and triton alone. The models' weights are made (markov_pair.py): what passes cost is what real models'
cost, and the texts are chosen. Sections are run one after another while there is time; each writes OUT/gpu_nudging.json anew.

    floor         milliseconds to read the weights once, by measured bandwidth
    generate@N    transformers' generate, eager, in batches of N          compiled@N  with a compiled static cache
    continuous@N  transformers' continuous batching
    alone@N/E     the base model alone in the engine E, N at a time       nudging@N/E  nudged
    ensemble@N/E  average ensemble       proxy_tuning@N/E  proxy tuning, with a third model
    pad@N/E       PAD                    args@N/E          ARGS
    passes/E      milliseconds of passes by new tokens; OUT/prices.json has them for --prices
    profile/E     kernels of a pass, and how long they keep the GPU busy

--only and --skip take names of sections or their first parts. Speeds are medians of --runs runs over the same prompts, with the
least and the most. "passes/token" counts each sample's part in a pass. With --prices the passes are not computed: they take as
long as they were measured to take on a GPU (priced_passes.py), and the loop, threads and all, runs on this machine.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from answer_sections import AnswerSections
from device_sections import DeviceSections
from guided_sections import GuidedSections
from markov_pair import SHAPES
from measurements import Device, Measurements, Sections, machine
from priced_passes import H100, NOTHING, PricedEngine, Prices, read_prices
from synthetic_models import SyntheticModels

from language_models.local.loading import pick_device, pick_dtype

TINY = {
    "base": "tiny",
    "nudging": "tiny",
    "tokens": 8,
    "prompt_tokens": 20,
    "at_a_time": [1, 2],
    "answers": 2,
    "runs": 1,
}
GUIDED = (1, 8)  # answers at a time of PAD and ARGS
# Seconds that a section needs at least, for shapes of several billion parameters.
NEEDS = {"generate": 12, "compiled": 45, "continuous": 20, "alone": 8, "nudging": 8, "pad": 15, "args": 15}

BUILT_IN = {"h100": H100, "none": NOTHING}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = f"{', '.join(SHAPES)}, or hidden,layers,heads,kv_heads,inner"
    parser.add_argument("--base", default="7b", metavar="SHAPE", help=f"{shape} (default 7b)")
    parser.add_argument("--nudging", default="1.1b", metavar="SHAPE", help="of the nudging model (default 1.1b)")
    parser.add_argument(
        "--reward", metavar="SHAPE", help="of PAD's and ARGS' reward models (default: the base model's)"
    )
    parser.add_argument("--scale", choices=("real", "tiny"), default="real", help="tiny: small models, short answers")
    parser.add_argument("--only", nargs="+", default=[], metavar="SECTION")
    parser.add_argument("--skip", nargs="+", default=[], metavar="SECTION")
    parser.add_argument("--engines", nargs="+", choices=("graphs", "packed"), help="default: graphs, then packed")
    parser.add_argument(
        "--prices",
        metavar="FILE",
        help="predict with a file of prices, or with built-in ones: h100, or none (passes that take no time)",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_nudging"), help="folder of the results")
    parser.add_argument("--budget_s", type=float, default=540)
    parser.add_argument("--section_s", type=float, default=30, help="no run is begun after so long in a section")
    parser.add_argument("--compile_s", type=float, default=120, help="the most for a compiled generate")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--at_a_time", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--answers", type=int, help="of a run (default: 2 x N)")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--prompt_tokens", type=int, default=100)
    parser.add_argument("--top_prob_thres", type=float, default=0.4)
    parser.add_argument("--uncertain", type=float, default=0.15, help="share of words at which the base is uncertain")
    parser.add_argument("--agree", type=float, default=0.75, help="how often the models agree where it is certain")
    parser.add_argument("--agree_uncertain", type=float, default=0.35, help="and where it is not")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser


def prices_of(options: argparse.Namespace) -> dict[str, Prices]:
    """The prices of the roles that are priced, by --prices.

    Raises:
        OSError, ValueError: there are none for a shape.
    """
    if options.prices is None:
        return {}
    known = BUILT_IN.get(options.prices) or read_prices(options.prices)
    for shape in (options.base, options.nudging):
        if shape not in known:
            raise ValueError(f"--prices {options.prices} has none for the shape {shape!r}; it has: {', '.join(known)}")
    return {"base": known[options.base], "nudging": known[options.nudging], "small": known[options.nudging]}


def run_all(sections: Sections, answers: AnswerSections, device: DeviceSections, engines: list[str]) -> None:
    """All sections, those that matter most first."""
    options = answers.options
    large = 0 if options.scale == "tiny" else 1
    guided = GuidedSections(answers)
    numbers, most = options.at_a_time, max(options.at_a_time)
    first, *others = engines

    def run(work, number: int, kind: str | None = None) -> None:
        name = f"{work.__name__}@{number}" + (f"/{kind}" if kind else "")
        arguments = (number, kind) if kind else (number,)
        sections.run(name, lambda: work(*arguments), large * NEEDS.get(work.__name__, 8))

    def passes(kind: str) -> None:
        sections.run(f"passes/{kind}", lambda: device.passes(kind, most), 6 * large)

    def loops(kind: str, works) -> None:
        for number in numbers:
            for work in works:
                run(work, number, kind)

    if options.prices is not None:
        return loops(first, (answers.alone, answers.nudging, answers.ensemble, answers.proxy_tuning))
    sections.run("floor", device.floor, 5 * large)
    run(answers.generate, numbers[0])
    loops(first, (answers.alone, answers.nudging))
    passes(first)
    for number in numbers[1:]:
        run(answers.generate, number)
    for number in numbers:
        run(answers.continuous, number)
    for number in (n for n in numbers if n in GUIDED or options.scale == "tiny"):
        run(guided.pad, number, first)
        run(guided.args, number, first)
    loops(first, (answers.ensemble, answers.proxy_tuning))
    sections.run(f"profile/{first}", lambda: device.profile(first, most), 6 * large)
    for number in numbers:
        run(answers.compiled, number)
    for kind in others:
        loops(kind, (answers.alone, answers.nudging))
        passes(kind)
        sections.run(f"profile/{kind}", lambda kind=kind: device.profile(kind, most), 6 * large)
        for number in (n for n in numbers if n in GUIDED or options.scale == "tiny"):
            run(guided.pad, number, kind)
            run(guided.args, number, kind)


def main(argv: list[str] | None = None) -> int:
    """Run what is wanted; 0, or 1 if a section failed."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.scale == "tiny":
        given = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(TINY)))
        for name, value in TINY.items():
            if getattr(given, name) is None:
                setattr(options, name, value)
    if min(*options.at_a_time, options.tokens, options.runs) < 1 or options.prompt_tokens < 2:
        parser.error("--at_a_time, --tokens and --runs begin at 1, and --prompt_tokens at 2")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    place = torch.device("cpu") if options.prices else pick_device(options.device)
    device, dtype = Device(place), pick_dtype(options.dtype, place)
    engines = [PricedEngine.kind] if options.prices else options.engines or ["graphs", "packed"]
    try:
        models = SyntheticModels(options, device, dtype, prices_of(options))
        measurements = Measurements(options.out, "gpu_nudging", vars(options), machine(place))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sections = Sections(measurements, options.budget_s, options.only, options.skip)
    sections.say(measurements.found["machine"])
    if options.prices:
        sections.say(
            "PREDICTIONS: passes take as long as on the GPU whose prices these are; the loop runs on this machine"
        )
    try:
        run_all(
            sections,
            AnswerSections(models, measurements, sections),
            DeviceSections(models, sections, options.out),
            engines,
        )
    finally:
        measurements.write()
        print("\n" + measurements.table, flush=True)
    found = measurements.found
    for what, names in (("failed", found["errors"]), ("left out for lack of time", found["left_out"])):
        if names:
            print(f"{what}: {', '.join(names)}")
    print(measurements.path)
    return 1 if found["errors"] else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of the engines and of compilers need not be waited for
