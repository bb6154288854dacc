"""The benchmarks as a package: every module imports, none in a circle, all by one scheme."""

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import ROOT

# Imported where their libraries are installed; the other modules need no more than `dpg` needs.
OPTIONAL = {
    "bench.metagradient.bergson_method": "bergson",
    "bench.metagradient.torch_methods": "torch",
    "bench.metagradient.torch_training": "torch",
}
SCRIPTS = (
    "derivatives", "engines", "gpu", "grpo_step", "invented_words", "metagradient",
    "metrics_together", "precision",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """Return every module of the benchmarks by its dotted name."""
    found = {}
    for path in sorted((ROOT / "bench").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield every import statement, those inside functions too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def imported_modules(module: str) -> set[str]:
    """Return the modules of the benchmarks that a module imports."""
    names = set()
    for node in imports(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in full}
    return names & set(MODULES)


def test_no_circles():
    graph = {module: imported_modules(module) - {module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_what_is_shared_imports_no_benchmark():
    shared = [name for name, path in MODULES.items() if path.parent.name == "bench"]
    shared = [name for name in shared if name.removeprefix("bench.") not in SCRIPTS]
    wrong = {
        f"{module} imports {name}"
        for module in shared
        for name in imported_modules(module)
        if name.split(".")[1:2] and name.split(".")[1] in SCRIPTS
    }
    assert wrong == set()


def test_modules_are_named_in_full():
    siblings = {path.stem for path in MODULES.values()} - {"__init__", "__main__"}
    siblings -= sys.stdlib_module_names
    wrong = []
    for module in MODULES:
        for node in imports(module):
            relative = isinstance(node, ast.ImportFrom) and node.level
            names = [alias.name for alias in node.names]
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            if relative or any(name.split(".")[0] in siblings for name in named):
                wrong.append(f"{module}:{node.lineno}")
    assert wrong == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module):
    if module in OPTIONAL:
        pytest.importorskip(OPTIONAL[module])
    importlib.import_module(module)


@pytest.mark.integration
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts_from_the_root_of_the_repository(script):
    command = [sys.executable, "-m", f"bench.{script}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"python -m bench.{script}" in done.stdout
