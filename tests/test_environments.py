"""An environment is what its lock says, made once, and never left half-made."""

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from dpg import environments
from dpg.environments import LockError, make, read_lock

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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a==1\nb>=2\n", "line 2: expected name==version, got 'b>=2'"),
        ("a_b==1\nA-b==1\n", "line 2: a-b stands there twice"),
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
    assert all("+" not in line for line, _ in pins.values())
    if not lock.stem.endswith("-gpu"):
        assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]
        assert pins.get("torch", ("torch==2.13.0", False))[0] == "torch==2.13.0"


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


def test_machines_with_gpus_have_locks_of_their_own():
    names = {path.stem for path in LOCKS}
    plain = {name for name in names if not name.endswith("-gpu")}
    assert {environments.for_gpus(name, 8) for name in plain} == names - plain
    assert {environments.for_gpus(name, 0) for name in plain} == plain
    ours = {name: read_lock(ROOT / "envs" / f"{name}.txt") for name in names}
    assert ours["verl"]["verl"] == ours["verl-gpu"]["verl"]
    assert ours["easydel"].items() <= ours["easydel-gpu"].items()
