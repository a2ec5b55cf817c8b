"""What a forward pass costs on a CPU: with plain and with blocked weights, and on a second thread that computes.

    python benchmarks/cpu_passes.py --model FOLDER [--dtype bfloat16] [--context 100]

Milliseconds of passes over new tokens behind a cached context: by transformers' own forward pass with the layers as they are
loaded; with linear layers of torch.utils.mkldnn.to_mkldnn, the documented way to weights in oneDNN's order; with blocked
weights (blocked_weights.py); and the latter on another thread while the first, which has computed before, only waits, as it would
be if models were loaded on the main thread and run on another one (see Worker.call in local/worker.py). The best of some passes.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tabulate import tabulate
from torch.utils.mkldnn import to_mkldnn
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from language_models.local.blocked_weights import block_weights
from language_models.local.loading import cache_argument, load_causal_lm, pick_dtype

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
REPEATS = 8


@torch.inference_mode()
def milliseconds(model, context: int) -> list[float]:
    """The best time of a pass over each of SIZES new tokens."""
    cache = DynamicCache(config=model.config)
    options = {cache_argument(model): cache}
    model(torch.arange(10, 10 + context)[None], **options)
    found = []
    for size in SIZES:
        ids, times = torch.arange(10, 10 + size)[None], []
        for _ in range(REPEATS):
            began = time.perf_counter()
            model(ids, **options)
            times.append(time.perf_counter() - began)
            cache.crop(-size)
        found.append(1000 * min(times))
    return found


def with_mkldnn_layers(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its linear layers replaced."""
    for name, layer in list(model.named_modules()):
        if type(layer) is torch.nn.Linear:
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, to_mkldnn(layer, layer.weight.dtype))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--context", type=int, default=100, help="tokens that are cached")
    options = parser.parse_args()
    cpu = torch.device("cpu")
    loading = {"device": cpu, "dtype": pick_dtype(options.dtype, cpu)}
    documented = milliseconds(with_mkldnn_layers(load_causal_lm(options.model, **loading)), options.context)
    model = load_causal_lm(options.model, **loading)
    plain = milliseconds(model, options.context)
    layers = block_weights(model)
    blocked = milliseconds(model, options.context)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(milliseconds, model, options.context).result()
    size = sum(p.numel() for p in load_causal_lm(options.model, device=cpu, dtype=model.dtype).parameters())
    dtype = str(model.dtype).removeprefix("torch.")
    print(f"{options.model}, {size / 1e6:,.0f} million parameters, {dtype}, {layers} layers blocked")
    print(f"{torch.get_num_threads()} processor threads, torch {torch.__version__}, best of {REPEATS}\n")
    rows = [
        [n, f"{a:.0f}", f"{d:.0f}", f"{b:.0f}", f"{a / b:.2f}", f"{c:.0f}"]
        for n, a, d, b, c in zip(SIZES, plain, documented, blocked, second, strict=True)
    ]
    names = [
        "new tokens",
        "plain, ms",
        "to_mkldnn, ms",
        "blocked, ms",
        "plain / blocked",
        "blocked, on a second thread, ms",
    ]
    print(tabulate(rows, names, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
