"""What is published: a light wheel and a whole source archive, built from this checkout."""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dpg
from dpg.__main__ import DISTRIBUTION, EXTRA, PACKAGES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIGHT = {"jax", "numpy", "optax"}
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]  # the first build sets sys.argv anew
print(build_meta.build_wheel(out))
print(build_meta.build_sdist(out))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source archive, built from a copy of the tracked files."""
    folder = tmp_path_factory.mktemp("built")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    copy = folder / "checkout"
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith("results/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, folder / "dist"],
        cwd=copy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    (archive,) = (folder / "dist").glob("*.tar.gz")
    return wheel, archive, copy


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


@pytest.mark.integration
class TestBuilt:
    def test_the_wheel_needs_jax_numpy_and_optax_alone(self, built):
        needs = [Requirement(line) for line in metadata_of(built[0]).get_all("Requires-Dist")]
        assert {one.name for one in needs if one.marker is None} == LIGHT

    def test_its_names_are_the_project_s(self, built):
        wheel, archive, _ = built
        about = metadata_of(wheel)
        assert (about["Name"], about["Version"]) == (DISTRIBUTION, dpg.__version__)
        assert wheel.name == f"dataset_policy_gradients-{dpg.__version__}-py3-none-any.whl"
        assert archive.name == f"dataset_policy_gradients-{dpg.__version__}.tar.gz"
        assert "How it works" in about.get_payload()

    def test_the_wheel_holds_the_package_and_nothing_else(self, built):
        wheel, _, copy = built
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
        expected = {
            str(path.relative_to(copy)) for path in (copy / "dpg").rglob("*") if path.is_file()
        }
        assert names == expected

    def test_the_archive_builds_the_same_wheel(self, built, tmp_path):
        wheel, archive, _ = built
        with tarfile.open(archive) as opened:
            opened.extractall(tmp_path, filter="data")
        (folder,) = tmp_path.iterdir()
        subprocess.run([sys.executable, "-c", BUILD, tmp_path / "again"], cwd=folder, check=True,
                       capture_output=True)  # fmt: skip
        (again,) = (tmp_path / "again").glob("*.whl")
        with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
            assert sorted(one.namelist()) == sorted(other.namelist())
            package = [name for name in one.namelist() if name.startswith("dpg/")]
            assert all(one.read(name) == other.read(name) for name in package)


BLOCKED = """
import runpy, sys
from importlib.machinery import PathFinder
allowed = set(sys.argv[1].split(","))
class Few:
    @staticmethod
    def find_spec(name, path=None, target=None):
        known = name.split(".")[0] in allowed
        return PathFinder.find_spec(name, path, target) if known else None
sys.meta_path[:] = [Few if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = sys.argv[2:]
if sys.argv[0] == "dpg":
    runpy.run_module("dpg", run_name="__main__")
else:
    exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {"__name__": "__main__"})
"""


def run_light(*arguments):
    """Run Python with the library's own dependencies alone, other packages hidden."""
    needed = {"dpg", "jaxlib", "jax_plugins", "ml_dtypes", "scipy", "opt_einsum", "absl", "toolz",
              "typing_extensions", "numpy", "jax", "optax"}  # fmt: skip
    # What sysconfig reads of the platform is a module whose name differs from one to the next.
    platforms = {sysconfig._get_sysconfigdata_name()}
    own = {"_distutils_hack", *platforms, *sys.stdlib_module_names}
    allowed = ",".join(sorted(needed | own))
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, allowed, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def example_of_the_readme(folder):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    path = folder / "example.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.mark.integration
def test_the_library_and_the_example_need_jax_numpy_and_optax_alone(tmp_path):
    done = run_light(example_of_the_readme(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("(8, 32)")


@pytest.mark.integration
@pytest.mark.parametrize("arguments", [["--version"], ["score", "--help"], ["config", "show"]])
def test_the_command_says_which_extra_it_needs(arguments):
    done = run_light("dpg", *arguments)
    assert done.returncode == 2
    assert f'pip install "{DISTRIBUTION}[{EXTRA}]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_extra_that_the_command_names_brings_those_packages():
    import importlib.metadata
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    of_import = importlib.metadata.packages_distributions()
    brought = {Requirement(line).name.lower() for line in extras[EXTRA]}
    named = {of_import[name][0].lower() for name in PACKAGES}
    assert named == brought


@pytest.mark.slow
@pytest.mark.network
def test_in_an_empty_environment_the_wheel_brings_a_library_that_works(built, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, built[0]], check=True)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*arguments):
        return subprocess.run(
            [python, *arguments],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )

    assert call("-c", "import dpg.learner").returncode == 0
    done = call(example_of_the_readme(tmp_path))
    assert done.stdout.strip().endswith("(8, 32)"), done.stderr
    refused = subprocess.run(
        [python.parent / "dpg", "--help"], env=clean, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert f"{DISTRIBUTION}[{EXTRA}]" in refused.stderr


class TestPublishing:
    TEXT = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    WORKFLOW = yaml.safe_load(TEXT)

    def test_only_a_version_s_tag_publishes(self):
        # YAML reads the key `on` as true.
        assert self.WORKFLOW[True] == {"push": {"tags": ["v*"]}}

    def test_it_is_trusted_by_the_registry_without_a_password(self):
        publish = self.WORKFLOW["jobs"]["publish"]
        assert publish["permissions"] == {"id-token": "write"}
        assert publish["needs"] == "build"
        assert not re.search(r"secrets\.|password|api-token", self.TEXT)
        assert self.WORKFLOW["permissions"] == {"contents": "read"}

    def test_a_tag_of_another_version_is_refused(self, tmp_path):
        steps = self.WORKFLOW["jobs"]["build"]["steps"]
        (check,) = [one["run"] for one in steps if one.get("name", "").startswith("The tag")]
        for tag, status in ((f"v{dpg.__version__}", 0), ("v9.9.9", 1)):
            done = subprocess.run(
                ["bash", "-ec", check], cwd=ROOT, capture_output=True, text=True, check=False,
                env=os.environ | {"GITHUB_REF_NAME": tag},
            )  # fmt: skip
            assert done.returncode == status, done.stderr + done.stdout
