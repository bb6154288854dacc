"""Every command that a page or a help text shows is run, dry-run or parsed as it stands there.

- `dpg`: parsed by the real parser; its scale file, run, experiment and variant must exist. Commands
  that only read the configuration are run.
- `make`: dry-run.
- `snakemake`, `dpg run`: dry-run, with the page's profile and configuration.
- `python -m`: the module's own help must have the options; a test file must exist.
- Others are in `SKIPPED`, each with a reason.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from dpg import cli, config
from dpg.errors import DpgError

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "config" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results" / "reference").glob("*/README.md")),
]
SKIPPED = {
    "git clone": "there is no address to clone from; tests/test_site.py builds from a copy",
    "cd": "a shell's own",
    "python3.12 -m venv": "makes an environment: tests/test_make.py",
    "pip install": "installs packages: tests/test_packaging.py checks what pyproject.toml asks for",
    "lm_eval": "needs a trained model: tests/evaluation/test_perplexity.py runs lm-eval itself",
    ".environments/NAME/bin/python": "needs TRL: tests/generators/trl/test_engine.py runs it",
    "kubectl create": "needs a cluster: tests/workflow/test_kubernetes.py",
    "docker": "needs a container engine: tests/test_archive.py checks the Dockerfile",
}
_PROGRAMS = ("dpg", "make", "snakemake", "python", "lm_eval", "docker", "kubectl")
_FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<body>.*?)^ *```", re.M | re.S)
_NAME = r"(?:\.venv/bin/)?(?:dpg|make|snakemake|lm_eval|docker|python3? -m)"
_INLINE = re.compile(rf"(?<!`)`({_NAME} [^`]+)`(?!`)")
_INDENTED = re.compile(rf"^    ({_NAME} .+)$", re.M)


class Shown(NamedTuple):
    """A command as a page shows it: where, its variables, its words, whether it is all there."""

    page: str
    variables: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    whole: bool

    @property
    def program(self) -> str:
        return self.words[0].removeprefix(".venv/bin/")

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def split(line: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The commands of a line, each with the variables that stand before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&;|"):
            variables = {}
            while words and re.match(r"[A-Z_]+=", words[0]):
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            if words or variables:
                yield variables, words
            words = []
        else:
            words.append(word)


def shown_in(page: str, text: str) -> Iterator[Shown]:
    """The commands of a page: blocks for a shell, indented lines, code inside a sentence."""
    for fence in _FENCE.finditer(text):
        if fence["language"] not in ("bash", "sh", "console", ""):
            continue
        known: dict[str, str] = {}
        for line in fence["body"].replace("\\\n", " ").splitlines():
            for name, value in known.items():
                line = line.replace(f"${name}", value)
            for variables, words in split(line):
                if words[:1] == ["export"]:
                    known |= dict(word.split("=", 1) for word in words[1:])
                elif words:
                    yield Shown(page, tuple((known | variables).items()), tuple(words), True)
                else:
                    known |= variables
    rest = _FENCE.sub("", text)
    for line in _INDENTED.findall(rest):
        for variables, words in split(line):
            yield Shown(page, tuple(variables.items()), tuple(words), True)
    for code in _INLINE.findall(re.sub(r"\s*\n\s*", " ", rest)):
        if not re.search(r"<\w+>|\.\.\.|\bDIR\b|\bNAME\b|=\{|\[", code.replace("<run>", "")):
            for variables, words in split(code.replace("<run>", "RUN")):
                yield Shown(page, tuple(variables.items()), tuple(words), False)


def every() -> list[Shown]:
    found = [
        shown
        for page in PAGES
        for shown in shown_in(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8"))
    ]
    return list(dict.fromkeys(found))


def reason_to_skip(shown: Shown) -> str | None:
    text = " ".join((shown.program, *shown.words[1:]))
    return next((why for start, why in SKIPPED.items() if text.startswith(start)), None)


ALL = every()


def of(*programs: str) -> list[Shown]:
    return [shown for shown in ALL if shown.program in programs and not reason_to_skip(shown)]


def test_commands_are_read_as_a_shell_reads_them():
    text = """\
```bash
A=one
make tiny ARGS="$A two" && B=3 dpg status -c x.yaml   # a comment
snakemake all \\
    --cores 2
```
Run `dpg config
show` or `dpg figure <name>`.
"""
    assert [(dict(s.variables), s.words, s.whole) for s in shown_in("page", text)] == [
        ({"A": "one"}, ("make", "tiny", "ARGS=one two"), True),
        ({"A": "one", "B": "3"}, ("dpg", "status", "-c", "x.yaml"), True),
        ({"A": "one"}, ("snakemake", "all", "--cores", "2"), True),
        ({}, ("dpg", "config", "show"), False),
    ]


def test_every_command_is_tested_or_skipped_for_a_reason():
    tested = {"dpg", "make", "snakemake", "python"}
    unknown = [str(s) for s in ALL if s.program not in tested and not reason_to_skip(s)]
    assert unknown == []
    assert len(of("dpg")) > 20


def test_no_reason_to_skip_is_left_over():
    used = {start for start in SKIPPED for s in ALL if reason_to_skip(s) == SKIPPED[start]}
    assert set(SKIPPED) - used - {"docker"} == set()


UsageError: type[Exception] = typer.BadParameter.__base__


_PLACE = re.compile(
    r"(?<![\w/.-])(?:bench|config|docs|dpg|envs|profiles|tests|workflow)/[\w/.-]*\w"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_a_page_names_exists(page):
    code = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    places = {place for words in code for place in _PLACE.findall(words)}
    assert [place for place in sorted(places) if not (ROOT / place).exists()] == []


@functools.cache
def root():
    return typer.main.get_command(cli.app)


def parsed(words: list[str], *, whole: bool) -> dict[str, object]:
    """The options of a `dpg` command, by the parser of the command itself.

    Raises:
        UsageError: the command, an option or a value is not allowed.
    """
    command, rest = root(), list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0].startswith("-"):
            return {}
        command, name = command.commands.get(rest[0]), rest.pop(0)
        if command is None:
            raise UsageError(f"no such command: {name}")
    if not whole and rest == []:
        return {}
    try:
        return command.make_context(words[0], rest, auto_envvar_prefix=None).params
    except typer.BadParameter as error:
        if whole or type(error).__name__ != "MissingParameter":
            raise
        return {}


study_of = functools.cache(config.load)


def check_of(words: list[str], *, whole: bool) -> None:
    """Raise unless a `dpg` command parses and what it names exists."""
    found = parsed(words, whole=whole)
    file = found.get("config") or found.get("first")
    if not file or not (ROOT / str(file)).exists():
        return
    study = study_of(ROOT / str(file))
    paths = {run.seedless for run in study.every_run}
    experiment, variant = found.get("experiment"), found.get("variant")
    if experiment and variant:
        assert f"{experiment}/{variant}" in paths
    run = found.get("run")
    if isinstance(run, str) and words[0] == "config":
        names = paths | {path.split("/")[0] for path in paths} | {"downstream", "scale"}
        generic = run.replace("adam-long", f"adam-T{study.scale.horizons.long}")
        assert generic in names, run


@pytest.mark.parametrize("shown", of("dpg"), ids=str)
def test_a_dpg_command_parses_and_what_it_names_exists(shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DPG_CONFIG", "config/tiny.yaml")
    check_of(list(shown.words[1:]), whole=shown.whole)


READING = [
    shown
    for shown in of("dpg")
    if shown.words[1:2] == ("config",) and shown.words[2] != "derive" and shown.whole
]


@pytest.mark.parametrize("shown", READING, ids=str)
def test_a_dpg_command_that_only_reads_is_run(shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    if path := dict(shown.variables).get("PYTHONPATH"):
        monkeypatch.syspath_prepend(ROOT / path)
    done = CliRunner().invoke(cli.app, list(shown.words[1:]))
    assert done.exit_code == 0, done.output
    assert done.output.strip()


def examples() -> Iterator[tuple[str, str]]:
    """The examples of every help text."""
    waiting = [("dpg", root())]
    while waiting:
        name, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [(f"{name} {key}", value) for key, value in command.commands.items()]
        text = re.sub(r"\s*\n\s*", " ", command.help or "")
        yield from (
            (name, code) for code in re.findall(r"\*\*(?:Example|Try):\*\* `([^`]+)`", text)
        )


@pytest.mark.parametrize(("name", "example"), sorted(examples()), ids=str)
def test_the_example_of_a_help_text_parses(name, example, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(example)
    assert example.startswith(name)
    check_of(words[1:], whole=True)


@pytest.mark.parametrize(
    "words",
    ["generate -c config/tiny.yaml --experiment uuid", "status --confg config/tiny.yaml", "stats"],
)
def test_a_wrong_command_is_found(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError):
        check_of(words.split(), whole=True)


def test_a_run_that_does_not_exist_is_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = "generate -c config/tiny.yaml --experiment uuid --variant adam-T8"
    with pytest.raises((AssertionError, DpgError)):
        check_of(words.split(), whole=True)


@pytest.mark.parametrize("shown", of("make"), ids=str)
def test_a_make_command_can_be_dry_run(shown):
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    done = subprocess.run(
        [shown.program, "--dry-run", *shown.words[1:]],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def options_of(words: tuple[str, ...]) -> list[str]:
    return [word.split("=")[0] for word in words if word.startswith("--")]


@pytest.mark.integration
@pytest.mark.parametrize("shown", of("python", "python3"), ids=str)
def test_a_module_knows_the_options_that_a_page_gives_it(shown):
    assert shown.words[1] == "-m"
    module, rest = shown.words[2], shown.words[3:]
    if module in ("pytest", "http.server"):
        assert all((ROOT / word).exists() for word in rest if not word.startswith("-"))
        return
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [option for option in options_of(rest) if option not in done.stdout] == []


RUNNING = [s for s in of("snakemake") if len(s.words) > 2]
RUNNING += [s for s in of("dpg") if s.words[1:2] == ("run",) and s.whole]


@pytest.mark.integration
@pytest.mark.parametrize("shown", RUNNING, ids=str)
def test_a_command_that_runs_the_workflow_can_be_dry_run(shown, tmp_path):
    for name in ("Snakefile", "workflow", "profiles", "config", "envs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    if {"three.yaml", "seed1.yaml"} & {*shown.words}:  # the page's lines before write it
        three = tmp_path / "three.yaml"
        three.write_text(config.derived(ROOT / "config" / "tiny.yaml", seeds=3))
        (tmp_path / "seed1.yaml").write_text(config.derived(three, only=1))
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "DPG_CONFIG")}
    paths = [str(ROOT), dict(shown.variables).get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", shown.program, *shown.words[1:], "--dry-run", "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280,
        env=kept | dict(shown.variables) | {"PYTHONPATH": ":".join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
