"""What CI runs: its parts, its count of tests, its linter, the hosted jobs, the commit hooks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.integration


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

    def test_reports_are_added_up(self, tmp_path, report):
        result = self.count(tmp_path, "r.xml", "r.xml")
        assert result.stdout == "6 passed, 4 failed, 2 skipped\n"

    def test_without_a_report_nothing_was_tested(self, tmp_path):
        result = self.count(tmp_path)
        assert result.stdout == "0 passed, 0 failed\n"
        assert result.returncode == 0

    @pytest.mark.parametrize("name", ["half.xml", "gone.xml"])
    def test_a_report_that_is_missing_or_damaged_is_a_failure(self, tmp_path, name):
        (tmp_path / "whole.xml").write_text("<testsuites><testcase/></testsuites>")
        (tmp_path / "half.xml").write_text("<testsuites><testsuite>")
        result = self.count(tmp_path, "whole.xml", name)
        assert result.returncode == 1
        assert "pytest left no report" in result.stdout
        assert result.stdout.splitlines()[-1] == "1 passed, 0 failed"

    PARTS = (
        *("lint", "test", "smoke", "test-integration", "smoke-trl"),
        *("faults", "engines", "test-slow"),
    )

    def run(
        self, tmp_path: Path, *parts: str, broken: str = "", limit: str | None = None
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Return what .ci/run did, and the targets made, in order.

        The commands stand for the real ones; each of a test leaves a report of one test.
        """
        if shutil.which("make") is None:
            pytest.skip("no make on this machine")
        (tmp_path / ".ci").mkdir()
        for name in ("run", "count.py"):
            shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci" / name)
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
        report = "<testsuite><testcase/></testsuite>"
        (tmp_path / "Makefile").write_text(
            f".PHONY: .venv {' '.join(self.PARTS)}\n"
            f".venv {' '.join(self.PARTS)}:\n"
            "\t@echo ran $@ >> diary\n"
            '\t@echo "$(ARGS)" >> words\n'
            "\t@for word in $(ARGS); do case $$word in --junitxml=*)"
            f" echo '{report}' > $${{word#--junitxml=}};; esac; done\n"
            f"\t@test $@ != '{broken}'\n"
        )
        environment = {k: v for k, v in os.environ.items() if k != "CI_LIMIT_SECONDS"}
        if limit is not None:
            environment["CI_LIMIT_SECONDS"] = limit
        result = subprocess.run(
            [tmp_path / ".ci" / "run", *parts],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        diary = tmp_path / "diary"
        return result, diary.read_text().split()[1::2] if diary.exists() else []

    @pytest.mark.parametrize("broken", ["", *PARTS])
    def test_every_part_runs_and_any_failure_fails_the_whole(self, tmp_path, broken):
        result, made = self.run(tmp_path, broken=broken)
        assert made == [".venv", *self.PARTS]
        assert (result.returncode != 0) == bool(broken), result.stderr
        assert result.stdout.splitlines()[-1] == "5 passed, 0 failed"
        failed = re.findall(r"^(\S+) +\d+ s +FAILED$", result.stdout, flags=re.MULTILINE)
        assert failed == ([broken] if broken else [])

    def test_nothing_runs_without_the_environment(self, tmp_path):
        result, made = self.run(tmp_path, broken=".venv")
        assert result.returncode != 0
        assert made == [".venv"]

    def test_only_the_parts_that_are_named_run(self, tmp_path):
        result, made = self.run(tmp_path, "smoke", "test-integration")
        assert made == [".venv", "smoke", "test-integration"]
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "1 passed, 0 failed"

    def test_an_unknown_part_is_refused_before_anything_runs(self, tmp_path):
        result, made = self.run(tmp_path, "lint", "tests")
        assert result.returncode == 2
        assert "there is no part 'tests'" in result.stderr
        assert made == []

    def test_slow_parts_do_not_start_after_the_limit(self, tmp_path):
        result, made = self.run(tmp_path, limit="0")
        assert made == [".venv", *self.PARTS[:5]]
        assert result.returncode == 0, result.stderr
        left = re.findall(r"^(\S+) +no time left$", result.stdout, flags=re.MULTILINE)
        assert left == ["faults", "engines", "test-slow"]
        assert result.stdout.splitlines()[-1] == "3 passed, 0 failed"

    def test_the_study_with_trl_is_run_once(self, tmp_path):
        self.run(tmp_path, "smoke-trl", "test-slow")
        *_, slow = (tmp_path / "words").read_text().splitlines()
        assert "--deselect tests/workflow/test_smoke_trl.py" in slow

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

    @staticmethod
    def jobs(workflow: str) -> dict[str, dict]:
        path = ROOT / ".github" / "workflows" / f"{workflow}.yml"
        return yaml.safe_load(path.read_text())["jobs"]

    def test_the_hosted_checks_run_the_same_script(self):
        (job,) = self.jobs("parts").values()
        assert ".ci/run ${{ inputs.parts }}" in [step.get("run") for step in job["steps"]]
        assert os.access(ROOT / ".ci" / "run", os.X_OK)
        for caller in (*self.jobs("ci").values(), *self.jobs("nightly").values()):
            assert caller["uses"] == "./.github/workflows/parts.yml"

    def test_the_hosted_checks_leave_no_part_out(self):
        jobs = {**self.jobs("ci"), **self.jobs("nightly")}
        assert set(jobs) == {"lint", "unit", "workflow", "engines", "slow"}
        parts = {part for job in jobs.values() for part in job["with"]["parts"].split()}
        assert parts == {*self.PARTS, "test-engines"}
        for name in ("unit", "workflow", "slow"):
            assert jobs[name]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]

    def test_a_commit_is_checked_as_make_lint_checks(self):
        """All of it but Snakemake's linter, which takes longer than a commit should."""
        config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
        (local,) = config["repos"]
        assert local["repo"] == "local"  # nothing is downloaded
        hooks = [hook["entry"] for hook in local["hooks"]]
        makefile = (ROOT / "Makefile").read_text()
        (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
        lines = [line.strip().replace("@$(BIN)/", ".venv/bin/") for line in recipe.splitlines()]
        assert [line for line in lines if "workflow_lint" not in line] == hooks
