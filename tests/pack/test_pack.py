"""A bundle is made, carried away and run to its end, on small models: in the order of a GPU's."""

import importlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpg import artifacts, cli, pack
from dpg.errors import DpgError
from dpg.pack import far_side
from dpg.study.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
RUN = "uuid/adam/seed0"


@pytest.fixture(scope="module")
def home(world, tmp_path_factory):
    """A study with its texts and models where the workflow puts them: (study, layout)."""
    root = tmp_path_factory.mktemp("home")
    layout = Layout("test", root / "results")
    layout.articles.parent.mkdir(parents=True)
    layout.articles.write_bytes((world.root / "articles.parquet").read_bytes())
    layout.passages.write_bytes((world.root / "passages.parquet").read_bytes())
    study = world.study
    for name in study.scale.models:
        folder = layout.model(name)
        folder.mkdir(parents=True)
        for path in (world.root / ("gpt2" if name == "gpt2" else "llama")).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    return study, layout


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(pack.bundle, "PART_BYTES", 20_000)


def make(home, out, names=(RUN,), **options):
    study, layout = home
    runs = {run.path: run for run in study.runs}
    options = {"python": "3.12", "wheels": (), "root": ROOT, "limits": [120]} | options
    return pack.make(study, layout, out, [runs[name] for name in names], **options)


def test_the_files_are_small_and_the_manifest_names_them(home, tmp_path, small_parts):
    asked = []

    def download(requirements, python, folder):
        asked.append((list(requirements), python))
        (folder / "one.whl").write_bytes(b"wheel")

    made = make(home, tmp_path / "bundle", wheels=("pydantic_core", "gguf"), download=download)
    ((requirements, python),) = asked
    assert [name.split("==")[0] for name in requirements] == ["pydantic_core", "gguf"]
    assert all("==" in name for name in requirements)
    assert python == "3.12"
    manifest = artifacts.read_json(tmp_path / "bundle" / "manifest.json")
    names = {path.relative_to(tmp_path / "bundle").as_posix() for path in made}
    assert {entry["name"] for entry in manifest["files"]} | {"manifest.json"} == names
    parts = [path for path in made if ".part" in path.name]
    assert len(parts) > 2
    assert all(path.stat().st_size <= 20_000 for path in parts)
    assert [stage["name"] for stage in manifest["stages"]] == ["device", "uuid-adam-0"]


def test_the_machine_is_measured_after_the_runs_by_modules_that_are_in_the_bundle(home, tmp_path):
    made = make(home, tmp_path / "bundle", bench=True, part_bytes=10_000)
    stages = artifacts.read_json(tmp_path / "bundle" / "manifest.json")["stages"]
    names = [stage["name"] for stage in stages]
    assert names == ["device", "uuid-adam-0", "precision", "metagradient", "bench"]
    with tarfile.open(tmp_path / "bundle" / "code.tar.gz") as code:
        packed = code.getnames()
    for stage in stages[2:]:
        _, module, *rest = stage["command"]
        assert f"{module.replace('.', '/')}" in packed or f"{module.replace('.', '/')}.py" in packed
        assert rest[-2:] == ["--out", "{out}"]
        # Its arguments are those that the module knows.
        parser = importlib.import_module(
            module + (".__main__" if module != "bench.precision" else "")
        ).arguments_parser()
        parser.parse_args(rest)
    parts = [path for path in made if ".part" in path.name]
    assert max(path.stat().st_size for path in parts) == 10_000


def test_runs_are_found_by_name_those_beside_the_study_too(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(pack, "make", lambda *given, **more: asked.append(given[3]) or [])
    names = ("uuid/adam", "lambada-es/sgd/seed0", "lambada-es/embedding-english")
    given = [word for name in names for word in ("--run", name)]
    command = ["pack", "--scale", str(ROOT / "config" / "tiny.yaml"), "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.app, [*command, *given])
    assert done.exit_code == 0, done.output
    (runs,) = asked
    assert [run.path for run in runs] == [
        "uuid/adam/seed0",
        "lambada-es/sgd/seed0",
        "lambada-es/embedding-english/seed0",
    ]
    for name, says in (
        ("uuid/adm", "has no variant 'adm' (did you mean 'adam'?)"),
        ("uuid/adam/seed7", "has no seed 7; its `seeds` are 0"),
        ("uuid", "--run uuid: expected EXPERIMENT/VARIANT"),
    ):
        done = CliRunner().invoke(cli.app, [*command, "--run", name])
        assert says in str(done.exception)
    done = CliRunner().invoke(cli.app, [*command, "--python", "312"])
    assert "--python 312: expected a version such as 3.12" in str(done.exception)


def test_what_is_not_there_is_named_with_its_command(home, tmp_path):
    study, _ = home
    elsewhere = Layout("test", tmp_path)
    with pytest.raises(DpgError, match="dpg text articles"):
        make((study, elsewhere), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def with_reward(home, **values):
    """The Spanish run with another reward."""
    run = home[0].run("lambada-es", "adam", 0)
    return run.model_copy(update={"reward": run.reward.model_copy(update=values)})


@pytest.mark.parametrize(
    ("reward", "command"),
    [
        ({"kind": "fasttext"}, "dpg fetch reward-model fasttext --out "),
        ({"kind": "embedding"}, "dpg fetch reward-model embedding --out "),
        ({"kind": "embedding", "model": "learned"}, "dpg model embedding"),
    ],
)
def test_the_model_of_a_reward_goes_along_to_where_the_run_looks_for_it(
    home, tmp_path, reward, command
):
    study, here = home
    run = with_reward(home, **reward)
    folder, options = here.reward_model_of(run), {"python": "3.12", "wheels": (), "root": ROOT}
    with pytest.raises(DpgError, match=command):
        pack.make(study, here, tmp_path / "bundle", [run], **options)
    folder.mkdir(parents=True)
    try:
        (folder / "model.bin").write_bytes(b"x" * 30_000)
        pack.make(study, here, tmp_path / "bundle", [run], part_bytes=20_000, **options)
    finally:
        shutil.rmtree(folder)
    far_side.unpack(tmp_path / "bundle", far_side.checked(tmp_path / "bundle"), tmp_path / "work")
    there = Layout("test", tmp_path / "work" / "code" / "results").reward_model_of(run)
    assert (there / "model.bin").read_bytes() == b"x" * 30_000


def test_a_run_whose_reward_reads_a_model_of_ones_own_is_refused(home, tmp_path):
    run = with_reward(home, kind="fasttext", model="mine.ftz")
    with pytest.raises(DpgError, match=r"lambada-es/adam/seed0: its reward reads the model mine"):
        pack.make(*home, tmp_path / "bundle", [run], python="3.12", wheels=(), root=ROOT)
    assert not (tmp_path / "bundle").exists()


def test_a_package_that_no_index_has_is_named(home, tmp_path, monkeypatch):
    class Failed:
        returncode, stderr = 1, "No matching distribution"

    monkeypatch.setattr(pack.bundle.subprocess, "run", lambda *_, **__: Failed)
    monkeypatch.setattr(pack.bundle, "git_state", lambda: None)
    with pytest.raises(DpgError, match=r"no wheels of gguf==\S+ for Python 3.12: No matching"):
        make(home, tmp_path / "bundle", wheels=("gguf",))


@pytest.fixture(scope="module")
def bundle(home, tmp_path_factory):
    """A bundle in small parts, not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack.bundle, "PART_BYTES", 20_000)
        make(home, out)
    return out


@pytest.fixture
def packed(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


def test_a_missing_part_is_named_before_anything_is_done(packed, tmp_path):
    part = sorted(packed.glob("*.part*"))[1]
    part.unlink()
    with pytest.raises(far_side.BundleError, match=f"{part.name} is missing"):
        far_side.checked(packed)


def test_a_part_that_was_cut_off_or_is_of_another_bundle_is_named(packed):
    part = sorted(packed.glob("*.part*"))[0]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(far_side.BundleError, match="is not the file that was packed"):
        far_side.checked(packed)


@pytest.mark.parametrize("name", ["code.tar.gz", "texts.tar", "llama-instruct.tar"])
def test_a_bundle_of_other_content_changes_nothing_even_with_the_same_commit(
    packed, tmp_path, name
):
    manifest = far_side.checked(packed)
    far_side.unpack(packed, manifest, tmp_path / "work")
    before = sorted(path for path in (tmp_path / "work").rglob("*"))
    far_side.unpack(packed, manifest, tmp_path / "work")  # the same bundle goes on
    other = {"name": "new.tar", "sha256": "0" * 64, "place": "code/new"}
    archives = [
        other,
        *(a | ({"sha256": "f" * 64} if a["name"] == name else {}) for a in manifest["archives"]),
    ]
    says = rf"from another bundle: SHA-256 of its {name} is [0-9a-f]{{12}}, expected ffffffffffff"
    with pytest.raises(far_side.BundleError, match=says):
        far_side.unpack(packed, manifest | {"archives": archives}, tmp_path / "work")
    assert sorted(path for path in (tmp_path / "work").rglob("*")) == before


def test_the_same_content_packed_again_is_the_same_bundle(home, bundle, tmp_path):
    """Packed at another time, in parts of another size, and for another run with the same texts."""
    make(home, tmp_path / "again", names=("norm/adam-T4/seed0",), part_bytes=10_000)
    first, again = (
        {one["name"]: one for one in artifacts.read_json(path / "manifest.json")["archives"]}
        for path in (bundle, tmp_path / "again")
    )
    assert {"code.tar.gz", "texts.tar", "llama-instruct.tar"} <= first.keys() & again.keys()
    assert all(first[name] == again[name] for name in first.keys() & again.keys())


@pytest.mark.parametrize("cut", ["code", "text", "llama-instruct"])
def test_what_was_cut_off_is_unpacked_again(packed, tmp_path, monkeypatch, cut):
    manifest = far_side.checked(packed)

    def cut_off(tar, path, **options):
        if cut in Path(path).name:
            tar.extract(tar.getmembers()[-1], path, filter="data")
            raise KeyboardInterrupt
        extract_all(tar, path, **options)

    extract_all = tarfile.TarFile.extractall
    monkeypatch.setattr(tarfile.TarFile, "extractall", cut_off)
    with pytest.raises(KeyboardInterrupt):
        far_side.unpack(packed, manifest, tmp_path / "work")
    monkeypatch.setattr(tarfile.TarFile, "extractall", extract_all)
    far_side.unpack(packed, manifest, tmp_path / "work")
    far_side.unpack(packed, manifest, tmp_path / "whole")
    first, second = (
        {path.relative_to(folder) for path in folder.rglob("*") if not path.name.endswith(".tar")}
        for folder in (tmp_path / "work", tmp_path / "whole")
    )
    assert first == second


@pytest.fixture
def wheels(tmp_path):
    """A bundle of one wheel for this Python: (folder, manifest)."""
    folder = tmp_path / "bundle" / "wheels"
    folder.mkdir(parents=True)
    (folder / "one.whl").write_bytes(b"no wheel")
    manifest = {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}.0",
        "archives": [{"name": "wheels", "sha256": "0" * 64, "place": "site"}],
        "files": [{"name": "wheels/one.whl"}],
    }
    return folder.parent, manifest


def test_wheels_that_were_cut_off_are_installed_again(wheels, tmp_path, monkeypatch):
    def pip(command, **_):
        site = Path(command[command.index("--target") + 1])
        site.mkdir(parents=True)
        (site / "one.py").touch()
        if cut:
            raise KeyboardInterrupt
        (site / "two.py").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(far_side.subprocess, "run", pip)
    cut = True
    with pytest.raises(KeyboardInterrupt):
        far_side.unpack(*wheels, tmp_path / "work")
    assert not (tmp_path / "work" / "site").exists()
    cut = False
    far_side.unpack(*wheels, tmp_path / "work")
    names = [path.name for path in (tmp_path / "work" / "site").iterdir()]
    assert sorted(names) == ["one.py", "two.py"]


def test_wheels_of_another_python_or_that_pip_refuses_are_named(wheels, tmp_path):
    folder, manifest = wheels
    says = r"is Python 3\.\d+, but the bundle's wheels are for Python 3\.5: call run\.py with"
    with pytest.raises(far_side.BundleError, match=says):
        far_side.unpack(folder, manifest | {"python": "3.5"}, tmp_path / "work")
    with pytest.raises(far_side.BundleError, match=r"pip cannot install .*one\.whl"):
        far_side.unpack(folder, manifest, tmp_path / "work")
    assert not (tmp_path / "work" / "site").exists()


@pytest.mark.parametrize("given", ["x", "device=", "device=ten"])
def test_a_limit_that_is_none_is_named(given):
    assert far_side.limits_of(["device=60", "bench=1.5"]) == {"device": 60.0, "bench": 1.5}
    with pytest.raises(far_side.BundleError, match=f"--limit {given}: expected STAGE=SECONDS"):
        far_side.limits_of([given])


def test_a_limit_ends_a_stage_in_the_middle_and_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(far_side, "LEAST", 0.5)
    (tmp_path / "code").mkdir()
    stages = far_side.Stages(tmp_path, tmp_path, 60.0)
    sleeper = {"name": "sleeper", "limit": 1.0, "command": ["-c", "import time; time.sleep(60)"]}
    quick = {"name": "quick", "limit": 20.0, "command": ["-c", "print('{seconds}')"]}
    failing = {"name": "failing", "limit": 20.0, "command": ["-c", "raise SystemExit(3)"]}
    again = {"name": "again", "limit": 20.0, "command": ["-c", "raise SystemExit(75)"]}
    ended = [stages.run(stage) for stage in (sleeper, quick, failing, again)]
    assert ended == ["limit", "done", "failed", "stopped"]
    assert (tmp_path / "quick.log").read_text() == "8\n"
    stages.end = 0.0
    assert stages.run(quick) == "no time"
    lines = [json.loads(line) for line in (tmp_path / "stages.jsonl").read_text().splitlines()]
    assert [line["ended"] for line in lines] == [*ended, "no time"]
    assert 1.0 <= lines[0]["seconds"] < 10.0


def test_two_stages_share_the_memory_of_a_gpu_unless_the_caller_says_otherwise(
    tmp_path, monkeypatch
):
    (tmp_path / "code").mkdir()
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    told = {
        "name": "told",
        "limit": 20.0,
        "command": ["-c", f"import os; print(os.environ['{name}'])"],
    }
    stages = far_side.Stages(tmp_path, tmp_path, 60.0, at_once=2)
    monkeypatch.delenv(name, raising=False)
    assert stages.run(told) == "done"
    monkeypatch.setenv(name, "0.3")
    assert stages.run(told) == "done"
    assert (tmp_path / "told.log").read_text().split() == ["0.460", "0.3"]


def test_the_state_of_a_finished_run_leaves_the_copy_too(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    state = runs / "uuid" / "adam" / "seed0" / "state"
    state.mkdir(parents=True)
    (state / "metrics.jsonl").write_text("one")
    far_side.bring(runs, out)
    assert (out / "runs" / "uuid" / "adam" / "seed0" / "state" / "metrics.jsonl").exists()
    (state / "metrics.jsonl").rename(state.parent / "metrics.jsonl")
    state.rmdir()
    (state.parent / "run.json").write_text("{}")
    far_side.bring(runs, out)
    copied = out / "runs" / "uuid" / "adam" / "seed0"
    assert {path.name for path in copied.iterdir()} == {"metrics.jsonl", "run.json"}


def test_the_copy_of_a_stopped_run_stays_when_the_working_folder_does_not_know_it(tmp_path):
    copied = tmp_path / "out" / "runs" / "uuid" / "adam" / "seed0" / "state" / "metrics.jsonl"
    copied.parent.mkdir(parents=True)
    copied.write_text("one")
    far_side.bring(tmp_path / "runs", tmp_path / "out")
    assert copied.read_text() == "one"


def call(bundle, tmp_path, *more):
    return subprocess.run(
        [sys.executable, str(bundle / "run.py"), "--out", str(tmp_path / "out"), "--work",
         str(tmp_path / "work"), *more],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


@pytest.mark.integration
def test_a_bundle_runs_to_its_end_elsewhere(packed, tmp_path):
    options = ("--weights", "5000000", "--at-once", "2")
    done = call(packed, tmp_path, "--seconds", "240", *options)
    logs = "".join(path.read_text() for path in (tmp_path / "out").glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "stages.jsonl").read_text().splitlines()
    ]
    assert [line["ended"] for line in lines] == ["done"] * 4
    assert json.loads((tmp_path / "out" / "device.log").read_text())["count"] >= 1
    brought = tmp_path / "out" / "runs" / RUN
    for name in ("metrics.jsonl", "clock.jsonl", "validation.parquet", "run.json"):
        assert (brought / name).exists(), name
    whole = tmp_path / "work" / "code" / "results" / "test" / "runs" / RUN / "generator"
    weights, half = whole / "model.safetensors", brought / "half.safetensors"
    assert half.stat().st_size == pytest.approx(weights.stat().st_size / 2, rel=0.2)
    assert not (brought / "generator").joinpath("model.safetensors").exists()


@pytest.mark.integration
def test_a_wrong_stage_is_named(packed, tmp_path):
    done = call(packed, tmp_path, "--seconds", "60", "--only", "devise")
    assert done.returncode == 2
    assert "no stage devise; there are device, uuid-adam-0" in done.stderr
    done = call(packed, tmp_path, "--seconds", "60", "--limit", "device")
    assert done.returncode == 2
    assert done.stderr == "bundle: --limit device: expected STAGE=SECONDS, such as device=60\n"
