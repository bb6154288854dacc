"""The Makefile: the environment is made when it must be, and nothing is removed by mistake."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.integration


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

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ((), "dpg report page --appendix -c config/tiny.yaml"),
            (("SCALE=gpu",), "dpg report page --appendix -c config/gpu.yaml"),
            (("SCALE=my/own.yaml",), "dpg report page --appendix -c my/own.yaml"),
            (("SCALE=my/own.yaml", "SEEDS=3"), "--appendix -c .cache/scales/own-3-seeds.yaml"),
            (("SEEDS=3",), "dpg config derive -c config/tiny.yaml --seeds 3"),
        ],
    )
    def test_the_report_of_a_scale_or_of_a_file_anywhere(self, checkout, arguments, says):
        result = self.make(checkout, "--dry-run", "-o", ".venv/.ready", "report", *arguments)
        assert result.returncode == 0, result.stderr
        assert says in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("ENV=trl",), "-m dpg.locks trl --uv .environments/uv/bin/uv"),
            (("ENV=trl", "UPGRADE=1"), "dpg.locks trl --uv .environments/uv/bin/uv --upgrade"),
            ((), "envs/core.txt.new"),
        ],
    )
    def test_a_lock_is_written_anew(self, checkout, monkeypatch, arguments, says):
        monkeypatch.setenv("ENV", "shell/startup")  # a shell's own: not the name of a lock
        result = self.make(checkout, "--dry-run", "-o", ".venv/.ready", "lock", *arguments)
        assert result.returncode == 0, result.stderr
        assert says in result.stdout
        assert ("dpg.locks" in result.stdout) == bool(arguments)
