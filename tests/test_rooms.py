"""The house of docs/design.md: which room may import which."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import REPOSITORY

# From the top down: a room may import from those below it. The files of one entry know nothing of one another.
FLOORS = (
    ("scripts", "examples"),
    ("run_api", "eval_utils", "collect_model_outs", "measure_reward", "serve_nudged"),
    ("serving",),
    ("nudged_pair",),
    ("answering",),
    ("cluster",),
    ("reporting",),
    ("analysis",),
    ("experiment", "pad"),
    ("nudging", "baselines"),
    ("decoding",),
    ("language_models.hosted", "language_models.local"),
    ("language_models",),
    ("questions",),
    ("utils", "datasets_loader"),
    ("demo",),
    ("command",),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# A command that needs no PyTorch starts without it.
TORCH = ("torch", "transformers", "peft", "accelerate")
LINES = 400


def modules() -> dict[str, Path]:
    """The files of the house by their module names, without tests and benchmarks."""
    rooms = [path for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith(".")]
    paths = [*REPOSITORY.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    relative = [path.relative_to(REPOSITORY) for path in paths]
    named = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in relative}
    return {name: path for name, path in named.items() if name.split(".")[0] not in ("tests", "benchmarks")}


MODULES = modules()


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in FLOOR_OF else parts[0]


def imports(tree: ast.AST, anywhere: bool = True) -> Iterator[str]:
    """What is imported: when the module is, or `anywhere` in it; what only type checkers read is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif anywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, anywhere)


def of_the_house(name: str) -> str | None:
    """The module of ours that an imported name is, or lies in."""
    return next((module for module in (name, name.rpartition(".")[0]) if module in MODULES), None)


@functools.cache
def imported(module: str, anywhere: bool = True) -> set[str]:
    tree = ast.parse((REPOSITORY / MODULES[module]).read_text(encoding="utf-8"))
    return {found for name in imports(tree, anywhere) if (found := of_the_house(name)) and found != module}


def test_every_file_has_a_floor():
    assert not {module for module in MODULES if room_of(module) not in FLOOR_OF}


def test_arrows_point_down():
    up = {
        f"{module} imports {other}"
        for module in MODULES
        for other in imported(module)
        if room_of(module) != room_of(other) and FLOOR_OF[room_of(module)] >= FLOOR_OF[room_of(other)]
    }
    assert not up


def test_nobody_imports_scripts():
    assert not {
        (module, other)
        for module in MODULES
        for other in imported(module)
        if other.startswith("scripts.") and not module.startswith("scripts.")
    }


def raw_imports(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text(encoding="utf-8"))))


def first_names(path: Path) -> set[str]:
    return {name.split(".")[0] for name in raw_imports(path)}


def test_nobody_imports_benchmarks_or_tests():
    helpers = {path.stem for path in (REPOSITORY / "tests").rglob("*.py")} | {"tests", "benchmarks"}
    found = {module for module, path in MODULES.items() if first_names(REPOSITORY / path) & helpers}
    assert not found


def test_benchmarks_import_of_tests_the_support_alone():
    tests = {path.stem for path in (REPOSITORY / "tests").rglob("*.py") if path.parent.name != "support"} | {"tests"}
    found = {path.name for path in (REPOSITORY / "benchmarks").glob("*.py") if first_names(path) & tests}
    assert not found


def test_the_paper_knows_the_interface_of_language_models_alone():
    allowed = {"language_models.interface", "language_models.readers", "language_models.proposals", "utils"}
    allowed |= {module for module in MODULES if room_of(module) == "decoding"}
    for module in ("nudging", "baselines"):
        assert imported(module) <= allowed


def test_language_models_know_neither_data_sets_nor_settings():
    for module in MODULES:
        if module.startswith("language_models"):
            assert not {room_of(other) for other in imported(module)} & {"datasets_loader", "experiment"}, module


def test_no_circles():
    arrows = {module: imported(module) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(arrows[module]):
                visit(other, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_torch_stays_in_its_rooms():
    for module, path in MODULES.items():
        tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
        if not module.startswith(("language_models.local", "pad")):
            assert not {name for name in imports(tree, anywhere=False) if name.split(".")[0] in TORCH}, module


@pytest.mark.parametrize(
    "command",
    [
        "run_api",
        "eval_utils",
        "collect_model_outs",
        "measure_reward",
        "serve_nudged",
        "reporting.html_report",
        "cluster.sweep",
    ],
)
def test_a_command_starts_without_torch(command):
    program = f"import sys, {command}; sys.exit(any(name in sys.modules for name in {TORCH}))"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0


# What takes longest to import, and who may do without it: an import of a room costs that room alone.
HEAVY = ("torch", "transformers", "openai", "datasets", "pandas", "matplotlib", "pydantic", "numpy")
NEEDED = {
    "command.console": (),
    "command.json_log": ("pydantic",),
    "demo.catalogue": (),
    "utils": (),
    "language_models.interface": (),
    "language_models.local.loading": (),
    "nudging": (),
    "baselines": (),
    "datasets_loader": ("numpy",),
    "experiment.result_files": ("pydantic",),
    "experiment.settings": ("numpy",),
    "eval_utils": ("numpy", "pydantic"),
    "cluster.serve_models": (),
    "cluster.sweep_config": ("numpy", "pydantic"),
    "cluster.sweep": ("numpy", "pandas", "pydantic"),
    "reporting.table": ("numpy", "pandas", "pydantic"),
    "pad.settings": ("numpy", "pydantic"),
}


@pytest.mark.parametrize("module", NEEDED)
def test_an_import_costs_its_room_alone(module):
    program = f"import sys, {module}; print(*({{*{HEAVY}}} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert set(found.stdout.split()) <= set(NEEDED[module])


def test_few_files_at_the_top_and_none_too_long():
    assert len([module for module, path in MODULES.items() if len(path.parts) == 1]) <= 10
    long = {str(path) for path in MODULES.values() if len((REPOSITORY / path).read_text().splitlines()) > LINES}
    assert not long
