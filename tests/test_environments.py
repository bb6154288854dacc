"""An environment is what its lock says, made once, and never left half-made."""

import hashlib
import io
import json
import subprocess
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpg import cli, environments
from dpg.environments import LockError, make, read_lock
from dpg.state import StateLockedError

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted(path for path in (ROOT / "envs").glob("*.txt") if path.stem != "core")


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A package with nothing in it but its name, its version and one requirement."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    about += f"Requires-Dist: {needs}\n" if needs else ""
    info = f"{name}-{version}.dist-info"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(f"{info}/METADATA", about)
        file.writestr(f"{info}/WHEEL", tag)
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")


BACKEND = """
import zipfile
import plainpackage  # there only where the package is built in the environment itself

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "kernel-1.0-py3-none-any.whl"
    about = "Metadata-Version: 2.1\\nName: kernel\\nVersion: 1.0\\n"
    tag = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as file:
        file.writestr("kernel.py", f"built_with = {plainpackage.version!r}\\n")
        file.writestr("kernel-1.0.dist-info/METADATA", about)
        file.writestr("kernel-1.0.dist-info/WHEEL", tag)
        file.writestr("kernel-1.0.dist-info/RECORD", "")
    return name
"""


def source_of_a_kernel(folder: Path) -> None:
    """A package that is built against another, as flash-attn is against PyTorch."""
    inside = "kernel-1.0"
    files = {
        "backend.py": BACKEND,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n',
        "PKG-INFO": "Metadata-Version: 2.1\nName: kernel\nVersion: 1.0\n",
    }
    with tarfile.open(folder / f"{inside}.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder of wheels that pip sees instead of any registry."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "plainpackage", "1.0")
    wheel(folder, "plainpackage", "2.0")
    wheel(folder, "stubborn", "0.5", needs="plainpackage<2")
    source_of_a_kernel(folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.mark.slow
def test_an_environment_is_made_once_and_again_when_its_lock_changes(registry, tmp_path):
    lock, out, said = tmp_path / "one.txt", tmp_path / "env", []
    lock.write_text("# why\nplainpackage==2.0\nstubborn==0.5  # no-deps\n")
    record = make(lock, out, say=said.append)
    assert record["packages"] == 2
    program = "import plainpackage, stubborn; print(plainpackage.version, stubborn.version)"
    found = subprocess.run([out / "bin" / "python", "-c", program], capture_output=True, text=True)
    assert found.stdout.split() == ["2.0", "0.5"]
    assert json.loads((out / environments.RECORD).read_text()) == record
    before = (out / environments.RECORD).stat().st_mtime_ns
    assert make(lock, out, say=said.append) == record
    assert (out / environments.RECORD).stat().st_mtime_ns == before
    assert "already made" in said[-1]
    lock.write_text("plainpackage==1.0\n")
    assert make(lock, out)["packages"] == 1
    assert not list(out.glob("lib/python*/site-packages/stubborn.py"))


@pytest.mark.slow
def test_what_must_be_built_is_built_against_what_is_there(registry, tmp_path):
    lock, out = tmp_path / "one.txt", tmp_path / "env"
    lock.write_text("plainpackage==2.0\nkernel==1.0  # no-deps\n")
    make(lock, out)
    program = "import kernel; print(kernel.built_with)"
    found = subprocess.run([out / "bin" / "python", "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "2.0"


@pytest.mark.slow
def test_a_package_that_does_not_fit_is_named_and_nothing_passes_for_whole(registry, tmp_path):
    lock, out = tmp_path / "one.txt", tmp_path / "env"
    lock.write_text("plainpackage==2.0\nstubborn==0.5\n")  # not marked: its own pin is obeyed
    with pytest.raises(LockError, match=r"(?s)one\.txt: pip cannot install it.*stubborn"):
        make(lock, out)
    assert not (out / environments.RECORD).exists()
    lock.write_text("plainpackage==3.0\n")
    with pytest.raises(LockError, match=r"(?s)pip cannot install.*plainpackage==3\.0"):
        make(lock, out)


def hash_of(path: Path) -> str:
    return f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.slow
def test_a_file_with_another_hash_is_refused(registry, tmp_path):
    lock, out = tmp_path / "one.txt", tmp_path / "env"
    right = hash_of(registry / "plainpackage-1.0-py3-none-any.whl")
    lock.write_text(f"plainpackage==1.0 \\\n    {right}\nstubborn==0.5  # no-hash\n")
    assert make(lock, out)["packages"] == 2
    lock.write_text(f"plainpackage==2.0 \\\n    {right}\n")  # the hash of another file
    with pytest.raises(LockError, match=r"(?s)one\.txt: pip cannot install it.*hash"):
        make(lock, out)
    assert not (out / environments.RECORD).exists()


@pytest.mark.slow
def test_packages_with_hashes_that_do_not_fit_together_are_named(registry, tmp_path):
    """pip installs them without their dependencies, so nothing else would tell."""
    lock = tmp_path / "one.txt"
    pins = [
        f"plainpackage==2.0 {hash_of(registry / 'plainpackage-2.0-py3-none-any.whl')}",
        f"stubborn==0.5 {hash_of(registry / 'stubborn-0.5-py3-none-any.whl')}",
    ]
    lock.write_text("\n".join(pins))
    with pytest.raises(LockError, match=r"do not fit together:\nstubborn 0\.5 .*plainpackage"):
        make(lock, tmp_path / "env")
    lock.write_text(pins[1])
    with pytest.raises(LockError, match=r"stubborn 0\.5 requires plainpackage, which is not"):
        make(lock, tmp_path / "env")
    lock.write_text("\n".join(pins) + "  # no-deps\n")
    assert make(lock, tmp_path / "env")["packages"] == 2


@pytest.mark.slow
def test_a_package_without_a_hash_leaves_those_with_one_as_they_are(registry, tmp_path):
    """stubborn asks for plainpackage<2; with pip alone it would replace what was checked."""
    lock = tmp_path / "one.txt"
    right = hash_of(registry / "plainpackage-2.0-py3-none-any.whl")
    lock.write_text(f"plainpackage==2.0 {right}\nstubborn==0.5  # no-hash\n")
    with pytest.raises(LockError, match=r"(?s)pip cannot install it.*plainpackage"):
        make(lock, tmp_path / "env")


@pytest.mark.slow
def test_packages_on_the_search_path_are_not_the_environments(registry, tmp_path, monkeypatch):
    """pip's check would find that one of them lacks what it needs."""
    about = tmp_path / "elsewhere" / "unfit-1.0.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: unfit\nVersion: 1.0\nRequires-Dist: nowhere\n")
    monkeypatch.setenv("PYTHONPATH", str(about.parents[1]))
    lock = tmp_path / "one.txt"
    lock.write_text(f"plainpackage==2.0 {hash_of(registry / 'plainpackage-2.0-py3-none-any.whl')}")
    assert make(lock, tmp_path / "env")["packages"] == 1


@pytest.mark.slow
def test_what_is_left_out_is_recorded_and_not_missed(registry, tmp_path):
    lock, out, said = tmp_path / "one.txt", tmp_path / "env", []
    lock.write_text("plainpackage==2.0\nkernel==1.0  # no-deps\n")
    record = make(lock, out, without=["Kernel"])
    assert record["left_out"] == environments.left_out_of(out) == ["kernel"]
    assert record["packages"] == 1
    make(lock, out, without=["kernel"], say=said.append)
    assert "already made" in said[-1]
    assert make(lock, out)["left_out"] == []  # all of it is wanted now
    with pytest.raises(LockError, match=r"one\.txt has no torch that could be left out"):
        make(lock, out, without=["torch"])


def test_hashes_and_exemptions_are_read(tmp_path):
    lock, one, two = tmp_path / "one.txt", "1" * 64, "2" * 64
    lock.write_text(
        f"# head\na==1.0 \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}\n"
        f"B_c==2 ; python_version < '3.12' \\\n    --hash=sha256:{two}  # no-deps\n"
        "torch==3  # no-deps, no-hash\n"
    )
    a, b, torch = read_lock(lock).values()
    assert a == environments.Pin("a==1.0", "1.0", (one, two))
    assert b == environments.Pin("B_c==2 ; python_version < '3.12'", "2", (two,), alone=True)
    assert torch == environments.Pin("torch==3", "3", alone=True, exempt=True)
    assert a.line == f"a==1.0 --hash=sha256:{one} --hash=sha256:{two}"
    lock.write_text(f"a==1.0 --hash=sha256:{one}\nb==2\n")
    with pytest.raises(LockError, match=r"no hash for b, expected one .*make lock ENV=one"):
        read_lock(lock)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a==1\nb>=2\n", "line 2: expected name==version, .*got 'b>=2'"),
        ("a==1 \\\n  --hash=sha256:12\nb==2\n", "line 1: expected name==version, then its"),
        ("a==1  # nodeps\n", "line 1: .*`# no-deps` or `# no-hash`"),
        ("a_b==1\nA-b==1\n", "line 2: a-b is listed twice"),
    ],
)
def test_a_lock_of_loose_versions_is_refused(tmp_path, text, says):
    (tmp_path / "one.txt").write_text(text)
    with pytest.raises(LockError, match=says):
        read_lock(tmp_path / "one.txt")


def test_a_lock_that_is_not_there_lists_those_that_are(tmp_path):
    (tmp_path / "verl.txt").touch()
    (tmp_path / "core.txt").touch()
    with pytest.raises(LockError, match=r"none\.txt: no such lock; there are: verl$"):
        read_lock(tmp_path / "none.txt")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_the_locks_of_the_project_can_be_read(lock):
    pins = read_lock(lock)
    assert all("+" not in pin.version for pin in pins.values())
    assert {name for name, pin in pins.items() if pin.exempt} <= {"torch", "flash-attn"}
    assert all(pin.hashes for pin in pins.values() if not pin.exempt)
    if not lock.stem.endswith("-gpu"):
        assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]
        assert pins["torch"].version == "2.13.0"


def test_an_environment_is_addressed_by_its_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock = Path("envs/one.txt")
    lock.parent.mkdir()
    lock.write_text("a==1\n")
    first = environments.path_of("one")
    assert first.parent == Path(".environments")
    assert first.name == f"one-{hashlib.sha256(b'a==1' + bytes([10])).hexdigest()[:12]}"
    lock.write_text("a==2\n")
    assert environments.path_of("one") != first
    with pytest.raises(LockError, match=r"two\.txt: no such lock; there are: one"):
        environments.path_of("two")


def test_folders_of_another_lock_or_of_the_naming_without_digests_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("envs").mkdir()
    for name in ("verl", "verl-gpu"):
        Path(f"envs/{name}.txt").write_text(f"{name}==1\n")
    assert environments.leftovers("verl") == []
    stale = [Path(".environments") / name for name in ("verl", "verl-0123456789ab")]
    for path in (*stale, environments.path_of("verl"), environments.path_of("verl-gpu")):
        path.mkdir(parents=True)
    assert environments.leftovers("verl") == stale
    assert environments.leftovers("verl-gpu") == []


@pytest.fixture
def hollow(monkeypatch):
    """No package is installed: a list of the locks from which environments were made."""
    installed = []

    def venv(command, fault):
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / "bin" / "python").touch()
        return "3.12.0"

    monkeypatch.setattr(environments, "_run", venv)
    monkeypatch.setattr(environments, "_compare", lambda *_: None)
    monkeypatch.setattr(
        environments, "_install_all", lambda python, pins, lock, say: installed.append(lock)
    )
    monkeypatch.setattr(environments, "_PAUSE", 0.05)
    return installed


def test_a_second_process_waits_and_then_finds_the_environment(hollow, tmp_path, monkeypatch):
    lock, out, said = tmp_path / "one.txt", tmp_path / "made" / "env", []
    lock.write_text("a==1\n")
    installing, waiting = threading.Event(), threading.Event()

    def install(python, pins, lock, say):
        hollow.append(lock)
        installing.set()
        assert waiting.wait(20)

    def say(line):
        said.append(line)
        if "waiting up to 30 minutes" in line:
            waiting.set()

    monkeypatch.setattr(environments, "_install_all", install)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(make, lock, out)
        assert installing.wait(20)
        second = pool.submit(make, lock, out, say=say)
        assert second.result() == first.result()
    assert hollow == [lock]  # once
    assert "another process works on this state" in said[0]
    assert said[1:] == [f"{out} is already made from {lock}"]
    assert [path.name for path in out.parent.iterdir()] == ["env"]


def test_a_process_that_never_ends_is_named(hollow, tmp_path, monkeypatch):
    lock, out = tmp_path / "one.txt", tmp_path / "env"
    lock.write_text("a==1\n")
    monkeypatch.setattr(environments, "_PATIENCE", 0.2)
    with (
        environments.locked(out),
        pytest.raises(StateLockedError, match="env: another process works on this state"),
    ):
        make(lock, out)
    assert hollow == []


def test_another_lock_has_a_folder_of_its_own(hollow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        done = CliRunner().invoke(cli.app, ["environment", "one", *words])
        assert done.exception is None, done.exception
        return done.output

    other = tmp_path / "mine.lock"
    other.write_text("a==2\n")
    call("--lock", str(other))  # with no lock in envs/
    call("--lock", str(other), "--out", "elsewhere")
    Path("envs").mkdir()
    Path("envs/one.txt").write_text("a==1\n")
    call("--lock", str(other))
    assert hollow == [other] * 2
    assert not environments.path_of("one").exists()
    assert [path.name for path in Path(".environments").iterdir()] == [
        environments.path_for(other).name
    ]
    assert environments.path_for(other).name.startswith("mine-")
    assert Path("elsewhere", environments.RECORD).exists()
    Path(".environments/one-0123456789ab").mkdir()
    assert "belongs to another lock" not in call("--lock", str(other))
    assert ".environments/one-0123456789ab belongs to another lock" in call()
    assert hollow == [other, other, Path("envs/one.txt")]
    assert environments.existing_python("one").exists()


def test_machines_with_gpus_have_locks_of_their_own():
    names = {path.stem for path in LOCKS}
    plain = {name for name in names if not name.endswith("-gpu")}
    assert {environments.for_gpus(name, 8) for name in plain} == names - plain
    assert {environments.for_gpus(name, 0) for name in plain} == plain
    ours = {name: read_lock(ROOT / "envs" / f"{name}.txt") for name in names}
    assert ours["verl"]["verl"] == ours["verl-gpu"]["verl"]
    assert ours["trl"]["trl"] == ours["trl-gpu"]["trl"]
    versions = {name: {k: p.version for k, p in pins.items()} for name, pins in ours.items()}
    assert versions["easydel"].items() <= versions["easydel-gpu"].items()
