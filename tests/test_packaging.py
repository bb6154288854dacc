"""The project as a whole: its versions, its lock, its layers, its commands, its words."""

import ast
import graphlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][A-Za-z0-9.]*)(?P<marker> ; .+)?")

# Ground floor first. A part imports from the parts above it in this list and from itself.
LAYERS = (
    "errors",
    "config",
    "artifacts",
    "layout",
    "environments",
    "machine",
    "progress",
    "webpage",
    "text",
    "models",
    "learner",
    "metrics",
    "rewards",
    "generators",
    "evaluation",
    "figures",
    "claims",
    "theory",
    "status",
    "report",
    "doctor",
    "cli",
    "__main__",
)
# What a bare machine with the core's dependencies alone must be able to import.
CORE = (
    "artifacts",
    "config",
    "errors",
    "generators",
    "learner",
    "metrics",
    "models",
    "rewards",
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
        assert importlib.metadata.version("dpg") == dpg.__version__

    def test_citation_and_changelog_speak_of_this_version(self):
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        assert str(citation["version"]) == dpg.__version__
        assert citation["license"] == PROJECT["license"]
        assert f"\n## {dpg.__version__} " in (ROOT / "CHANGELOG.md").read_text()

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
        extras = PROJECT["optional-dependencies"]
        return [
            requirement
            for line in [*PROJECT["dependencies"], *(r for extra in extras.values() for r in extra)]
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
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
        for line in pyproject["build-system"]["requires"]:
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
            if name.startswith("dpg.") and part(name) not in {"learner", "errors"}
        ]
        assert wrong == []


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
        allowed = self.closure(PROJECT["dependencies"])
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


@pytest.mark.integration
class TestMake:
    TEXT = (ROOT / "Makefile").read_text()

    def targets(self) -> set[str]:
        return set(re.findall(r"^([a-z.][a-z.-]*):.*## ", self.TEXT, flags=re.MULTILINE))

    @pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "envs/core.txt"])
    def test_the_documents_name_targets_that_exist(self, document):
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:`|^ *|&& )make ([a-z.][a-z.-]*)", text, flags=re.MULTILINE))
        assert named, f"{document} names no target"
        assert named - self.targets() == set()

    def test_the_readme_names_the_two_commands(self):
        text = (ROOT / "README.md").read_text()
        assert "make tiny" in text
        assert "make test" in text

    def make(self, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @pytest.fixture
    def checkout(self, tmp_path):
        """A folder with what the environment is made from, and a Python that only keeps a diary."""
        if shutil.which("make") is None:
            pytest.skip("no make on this machine")
        (tmp_path / "envs").mkdir()
        for name in ("Makefile", "envs/core.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, tmp_path / name)
        self.python(tmp_path, right=True)
        return tmp_path

    def python(self, checkout: Path, *, right: bool) -> None:
        path = checkout / "python"
        path.write_text(
            f"""#!/bin/sh
case "$*" in
    *version_info*) exit {0 if right else 1};;
    --version) echo Python 3.9.1;;
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    *install*requirements*|*"install --quiet -r"*) echo install >> diary; test ! -e broken;;
esac
"""
        )
        path.chmod(0o755)

    def installations(self, checkout: Path) -> int:
        diary = checkout / "diary"
        return diary.read_text().count("install") if diary.exists() else 0

    def test_help_is_the_default_and_lists_every_target(self, checkout):
        result = self.make(checkout)
        assert result.returncode == 0
        listed = {line.split()[0] for line in result.stdout.splitlines()[1:]}
        assert listed == self.targets()
        assert {"tiny", "smoke", "test", "test-slow", "lint", "clean"} <= listed

    def test_the_environment_is_made_once(self, checkout):
        for _ in range(2):
            assert self.make(checkout, ".venv", "PYTHON=./python").returncode == 0
        assert self.installations(checkout) == 1

    def test_a_changed_lock_is_installed(self, checkout):
        self.make(checkout, ".venv", "PYTHON=./python")
        later = (checkout / ".venv" / ".ready").stat().st_mtime + 10
        os.utime(checkout / "envs" / "core.txt", (later, later))
        self.make(checkout, ".venv", "PYTHON=./python")
        assert self.installations(checkout) == 2

    def test_a_half_made_environment_is_made_again(self, checkout):
        (checkout / "broken").touch()
        assert self.make(checkout, ".venv", "PYTHON=./python").returncode != 0
        assert not (checkout / ".venv" / ".ready").exists()
        (checkout / ".venv" / "half").touch()
        (checkout / "broken").unlink()
        result = self.make(checkout, ".venv", "PYTHON=./python")
        assert result.returncode == 0
        assert "half-made" in result.stdout
        assert not (checkout / ".venv" / "half").exists()
        assert (checkout / ".venv" / ".ready").exists()

    def test_another_python_is_refused_with_the_way_out(self, checkout):
        self.python(checkout, right=False)
        result = self.make(checkout, "test", "PYTHON=./python")
        assert result.returncode != 0
        assert "Python 3.11 to 3.13 is needed; ./python is Python 3.9.1." in result.stdout
        assert re.search(r"make PYTHON=\S+ test", result.stdout)
        assert not (checkout / ".venv").exists()

    @pytest.mark.parametrize("scale", ["", "reference", "../x", ".", "tiny/runs"])
    def test_results_go_only_when_their_scale_is_named(self, checkout, scale):
        kept = checkout / "results" / "reference" / "tiny" / "a.csv"
        kept.parent.mkdir(parents=True)
        kept.touch()
        assert self.make(checkout, "clean-results", f"SCALE={scale}").returncode != 0
        assert self.make(checkout, "clean").returncode == 0
        assert kept.exists()

    def test_results_of_a_named_scale_go(self, checkout):
        for scale in ("tiny", "smoke"):
            (checkout / "results" / scale).mkdir(parents=True)
        assert self.make(checkout, "clean-results", "SCALE=tiny").returncode == 0
        assert [path.name for path in (checkout / "results").iterdir()] == ["smoke"]


@pytest.mark.integration
class TestCi:
    def count(self, tmp_path: Path, *names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / ".ci" / "count.py", *names],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    @pytest.fixture
    def report(self, tmp_path):
        """Pytest's own report of one test of every outcome."""
        (tmp_path / "test_outcomes.py").write_text(
            "import pytest\n"
            "def test_passes(): pass\n"
            "@pytest.mark.parametrize('n', range(2))\n"
            "def test_passes_twice(n): pass\n"
            "def test_fails(): assert False\n"
            "def test_error(absent_fixture): pass\n"
            "def test_skips(): pytest.skip('no')\n"
        )
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=r.xml"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        return tmp_path / "r.xml"

    def test_the_count_is_pytest_s(self, tmp_path, report):
        result = self.count(tmp_path, "r.xml")
        assert result.stdout == "3 passed, 2 failed, 1 skipped\n"
        assert result.returncode == 1

    def test_reports_are_added_up_and_the_later_may_be_missing(self, tmp_path, report):
        assert self.count(tmp_path, "r.xml", "r.xml").stdout.startswith("6 passed, 4 failed")
        assert self.count(tmp_path, "r.xml", "gone.xml").stdout.startswith("3 passed, 2 failed")

    def test_a_first_report_that_is_missing_or_damaged_is_a_failure(self, tmp_path):
        (tmp_path / "half.xml").write_text("<testsuites><testsuite>")
        for name in ("half.xml", "gone.xml"):
            result = self.count(tmp_path, name)
            assert result.returncode == 1
            assert "pytest left no report" in result.stdout

    @pytest.mark.parametrize(
        "broken", ["", "lint", "test", "smoke", "test-integration", "engines", "test-slow", ".venv"]
    )
    def test_every_part_runs_and_any_failure_fails_the_whole(self, tmp_path, broken):
        """With commands that stand for the real ones, each with a report of one test."""
        if shutil.which("make") is None:
            pytest.skip("no make on this machine")
        (tmp_path / ".ci").mkdir()
        for name in ("run", "count.py"):
            shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci" / name)
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
        report = "<testsuite><testcase/></testsuite>"
        (tmp_path / "Makefile").write_text(
            ".PHONY: .venv lint test smoke test-integration engines test-slow\n"
            ".venv lint smoke test test-integration engines test-slow:\n"
            "\t@echo ran $@ >> diary\n"
            "\t@for word in $(ARGS); do case $$word in --junitxml=*)"
            f" echo '{report}' > $${{word#--junitxml=}};; esac; done\n"
            f"\t@test $@ != '{broken}'\n"
        )
        plain = {k: v for k, v in os.environ.items() if k != "CI_LIMIT_SECONDS"}
        result = subprocess.run(
            [tmp_path / ".ci" / "run"], capture_output=True, text=True, check=False, env=plain
        )
        ran = (tmp_path / "diary").read_text().split()[1::2]
        if broken == ".venv":  # without it nothing can run
            assert result.returncode != 0
            assert ran == [".venv"]
            return
        parts = ["lint", "test", "smoke", "test-integration", "engines", "test-slow"]
        assert ran == [".venv", *parts]
        assert (result.returncode != 0) == bool(broken), result.stderr
        assert result.stdout.splitlines()[-1] == "3 passed, 0 failed"
        failed = re.findall(r"^(\S+) +\d+ s +FAILED$", result.stdout, flags=re.MULTILINE)
        assert failed == ([broken] if broken else [])

    LINTS = (
        "Lints for rule a (line 4, a.smk):\n"
        "    * Specify a conda environment or container for each rule.:\n"
        "      This way, the used software is documented.\n"
        "{more}\n"
    )

    @pytest.mark.parametrize(
        ("more", "status", "said"),
        [
            ("", 0, "0 findings"),
            ("    * No log directive defined:\n      Without it ...", 1, "No log directive"),
        ],
    )
    def test_only_justified_lints_are_set_aside(self, tmp_path, more, status, said):
        (tmp_path / "out").write_text(self.LINTS.format(more=more))
        result = self.lint("sh", "-c", f"cat '{tmp_path / 'out'}' >&2; exit 1")
        assert result.returncode == status
        assert said in result.stdout
        assert "set aside 1 times: Specify a conda" in result.stdout

    def test_a_linter_that_fails_without_a_finding_is_a_failure(self):
        result = self.lint("sh", "-c", "echo NameError in line 3; exit 1")
        assert result.returncode == 1
        assert "NameError in line 3" in result.stdout

    def lint(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / ".ci" / "workflow_lint.py", *command],
            capture_output=True,
            text=True,
            check=False,
        )

    def test_the_hosted_check_runs_the_same_script(self):
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
        job = workflow["jobs"]["check"]
        assert ".ci/run" in [step.get("run") for step in job["steps"]]
        assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
        assert os.access(ROOT / ".ci" / "run", os.X_OK)


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
