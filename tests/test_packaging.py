"""The project as a whole: its versions, its lock, its layers, its words."""

import ast
import graphlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dpg

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][A-Za-z0-9.]*)(?P<marker> ; .+)?")

# Ground floor first. A part imports from the parts above it in this list and from itself.
LAYERS = (
    "errors",
    "quantities",
    "hardware",
    "processes",
    "progress",
    "revisions",
    "artifacts",
    "digests",
    "provenance",
    "state",
    "run_folder",
    "environments",
    "locks",
    "webpage",
    "config",
    "text",
    "own_files",
    "models",
    "learner",
    "metrics",
    "targets",
    "rewards",
    "score",
    "generators",
    "study",
    "evaluation",
    "figures",
    "findings",
    "claims",
    "theory",
    "report",
    "doctor",
    "pack",
    "cli",
    "__main__",
)
# What a bare machine with the extra `study` alone must be able to import.
CORE = (
    "artifacts",
    "config",
    "errors",
    "generators",
    "learner",
    "metrics",
    "models",
    "rewards",
    "score",
    "text",
)


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "dpg").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported_names(module: str) -> Iterator[tuple[str, int]]:
    """Yield the full name and line of everything a module imports, in functions too."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base, node.lineno


def part(module: str) -> str | None:
    """Return the part of the package a module belongs to: `models` of `dpg.models.gpt2`."""
    return module.split(".")[1] if "." in module else None


class TestVersion:
    def test_the_installed_package_is_this_one(self):
        assert importlib.metadata.version(PROJECT["name"]) == dpg.__version__

    def test_citation_and_changelog_speak_of_this_version(self):
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        assert str(citation["version"]) == dpg.__version__
        assert citation["license"] == PROJECT["license"]
        changelog = (ROOT / "CHANGELOG.md").read_text()
        day = citation.get("date-released", "unreleased")
        assert f"\n## {dpg.__version__} ({day})\n" in changelog

    def test_every_description_of_the_project_says_the_same(self):
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        archive = json.loads((ROOT / ".zenodo.json").read_text())
        authors = [author["name"] for author in citation["authors"]]
        assert [author["name"] for author in PROJECT["authors"]] == authors
        assert [author["name"] for author in archive["creators"]] == authors
        assert PROJECT["keywords"] == citation["keywords"] == archive["keywords"]
        assert PROJECT["license"] == citation["license"] == archive["license"]
        assert archive["title"] == citation["title"]
        assert archive["description"] == citation["abstract"]

    def test_every_file_of_the_package_is_installed(self):
        data = PYPROJECT["tool"]["setuptools"]["package-data"]["dpg"]
        left_out = [
            path.relative_to(ROOT)
            for path in tracked_files()
            if path.is_relative_to(ROOT / "dpg")
            and path.suffix != ".py"
            and not any(path in (ROOT / "dpg").glob(pattern) for pattern in data)
        ]
        assert left_out == []

    def test_this_python_is_supported(self):
        requirement = Requirement(f"python{PROJECT['requires-python']}")
        assert requirement.specifier.contains(".".join(map(str, sys.version_info[:3])))


class TestLock:
    LINES = tuple(
        line
        for line in (ROOT / "envs" / "core.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )

    def locked(self) -> dict[str, str]:
        matches = [PINNED.fullmatch(line) for line in self.LINES]
        return {canonicalize_name(match["name"]): match["version"] for match in matches if match}

    def required(self) -> list[Requirement]:
        extras = [
            extra for name, extra in PROJECT["optional-dependencies"].items() if name != "docs"
        ]
        return [
            requirement
            for line in [*PROJECT["dependencies"], *(r for extra in extras for r in extra)]
            if (requirement := Requirement(line)).name != PROJECT["name"]
        ]

    def test_every_line_is_one_exact_version(self):
        # A local label (+cpu) exists in one index alone.
        assert [line for line in self.LINES if not PINNED.fullmatch(line)] == []

    def test_each_package_stands_there_once_and_in_order(self):
        names = [canonicalize_name(PINNED.fullmatch(line)["name"]) for line in self.LINES]
        assert len(set(names)) == len(names)
        assert [line.upper() for line in self.LINES] == sorted(line.upper() for line in self.LINES)

    def test_no_gpu_library_is_locked(self):
        gpu = re.compile(r"nvidia|cuda|triton|rocm")
        assert [name for name in self.locked() if gpu.search(name)] == []

    def test_torch_is_one_version_everywhere(self):
        (torch,) = [r for r in self.required() if r.name == "torch"]
        assert str(torch.specifier) == f"=={self.locked()['torch']}"

    def test_it_holds_what_pyproject_asks_for(self):
        locked = self.locked()
        for requirement in self.required():
            name = canonicalize_name(requirement.name)
            assert name in locked, f"{name} is in pyproject.toml but not in envs/core.txt"
            assert requirement.specifier.contains(locked[name]), f"{requirement}: {locked[name]}"

    def test_the_build_backend_is_locked(self):
        # The project is installed without build isolation, from what the lock brings.
        for line in PYPROJECT["build-system"]["requires"]:
            requirement = Requirement(line)
            assert requirement.specifier.contains(self.locked()[requirement.name])

    def test_nothing_that_a_locked_package_needs_is_left_open(self):
        locked = self.locked()
        gpu = re.compile(r"nvidia|cuda|triton")
        for name in locked:
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                pytest.fail(f"{name} is locked but not installed: run `make .venv`")
            for line in needs:
                need = Requirement(line)
                if need.marker and not need.marker.evaluate({"extra": ""}):
                    continue
                if not gpu.search(need.name):
                    assert canonicalize_name(need.name) in locked, f"{name} needs {need}"


class TestLayers:
    def test_every_part_has_its_floor(self):
        parts = {part(module) for module in MODULES} - {None}
        assert parts - set(LAYERS) == set(), "give it a place in LAYERS"

    def test_imports_go_down_only(self):
        floor = {name: number for number, name in enumerate(LAYERS)}
        wrong = [
            f"{MODULES[module].relative_to(ROOT)}:{line}: {part(module)} imports {name}"
            for module in MODULES
            for name, line in imported_names(module)
            if name.startswith("dpg.")
            and part(module) is not None
            and floor.get(part(name), 0) > floor.get(part(module), len(LAYERS))
        ]
        assert wrong == []

    def test_the_package_itself_imports_nothing(self):
        assert list(imported_names("dpg")) == []

    def test_no_circles(self):
        graph = {
            module: {name for name, _ in imported_names(module) if name in MODULES} - {module}
            for module in MODULES
        }
        graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle

    def test_the_learner_knows_no_language_model(self):
        wrong = [
            f"{module}:{line} imports {name}"
            for module in MODULES
            if part(module) == "learner"
            for name, line in imported_names(module)
            if name.startswith("dpg.") and part(name) not in {"learner", "errors", "quantities"}
        ]
        assert wrong == []


@pytest.mark.integration
class TestDependencies:
    def test_every_import_is_declared(self):
        """In pyproject.toml, or in the lock of another environment (`envs/verl.txt`, ...)."""
        extras = PROJECT["optional-dependencies"].values()
        lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
        declared = {canonicalize_name(Requirement(line).name) for line in lines}
        for lock in (ROOT / "envs").glob("*.txt"):
            if lock.name != "core.txt":
                declared |= {
                    canonicalize_name(match["name"])
                    for line in lock.read_text().splitlines()
                    if (match := PINNED.match(line))
                }
        # What another environment has is not installed here, and may be called otherwise.
        sources = {"hydra": ["hydra-core"], **importlib.metadata.packages_distributions()}
        wrong = []
        for module in MODULES:
            for name, line in imported_names(module):
                top = name.split(".")[0]
                if top in sys.stdlib_module_names or top == "dpg":
                    continue
                distributions = {canonicalize_name(source) for source in sources.get(top, [top])}
                if not distributions & declared:
                    wrong.append(f"{MODULES[module].relative_to(ROOT)}:{line}: {top}")
        assert wrong == []

    def test_the_core_imports_with_its_own_dependencies_alone(self):
        study = PROJECT["optional-dependencies"]["study"]
        allowed = self.closure([*PROJECT["dependencies"], *study])
        heavy = {"torch", "transformers", "snakemake", "matplotlib"}
        assert not heavy & allowed
        optional = {
            top
            for top, distributions in importlib.metadata.packages_distributions().items()
            if top != "dpg" and not {canonicalize_name(d) for d in distributions} & allowed
        }
        forbidden = sorted(heavy | optional)
        names = sorted(module for module in MODULES if part(module) in CORE)
        program = """
import importlib, importlib.abc, json, sys
forbidden, names = json.loads(sys.argv[1])
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is no dependency of the core", name=name)
sys.meta_path.insert(0, Absent())
before = set(sys.modules)  # what the interpreter's own start brings
failures = []
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failures.append(f"{name}: {error}")
assert not set(forbidden) & {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(failures))
"""
        result = subprocess.run(
            [sys.executable, "-c", program, json.dumps([forbidden, names])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == []

    @staticmethod
    def closure(lines: list[str]) -> set[str]:
        """Return the names of these requirements and of all that they need, installed or not."""
        names: set[str] = set()
        waiting = [Requirement(line) for line in lines]
        while waiting:
            requirement = waiting.pop()
            name = canonicalize_name(requirement.name)
            if name in names:
                continue
            names.add(name)
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            waiting += [
                need
                for need in map(Requirement, needs)
                if not need.marker or need.marker.evaluate({"extra": ""})
            ]
        return names


class TestWords:
    # Put together here, so that this file does not hold what it looks for.
    HOSTS = tuple(
        ".".join(parts)
        for parts in (
            ("pypi", "org"),
            ("python" + "hosted", "org"),
            ("npmjs", "org"),
            ("download", "pytorch", "org"),
            ("debian", "org"),
            ("anaconda", "org"),
        )
    )
    PATHS = re.compile(r"(?<![\w.$}~-])/(?:" + "|".join(["work", "root", "home", "tmp"]) + r")/\w")

    def texts(self) -> Iterator[tuple[str, str]]:
        for path in tracked_files():
            try:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture

    def test_the_pattern_finds_a_path_of_one_machine(self):
        assert self.PATHS.search("see /" + "work/x")
        assert self.PATHS.search('"/' + 'tmp/y"')
        assert not self.PATHS.search("docs/" + "work/x and https://host/" + "work/x")

    def test_no_registry_is_named_by_its_host(self):
        wrong = [
            f"{name}: {host}" for name, text in self.texts() for host in self.HOSTS if host in text
        ]
        assert wrong == []

    def test_no_path_of_one_machine(self):
        wrong = [
            f"{name}: {match.group()}"
            for name, text in self.texts()
            for match in self.PATHS.finditer(text)
        ]
        assert wrong == []
