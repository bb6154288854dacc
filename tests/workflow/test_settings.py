"""A rule's digest has what its step reads, so nothing stays as it was after a change."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpg import config
from dpg.digests import of_file, of_settings, without_nulls
from dpg.evaluation import corpora
from dpg.revisions import in_digest
from dpg.study import sources

pytest.importorskip("snakemake")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
include: "Snakefile"

import json

probed = ("untuned_corpus", "replay", "claims")
digests = {name: getattr(rules, name).rule.params.settings for name in probed}
found = {"digests": digests, "local": sorted(workflow._localrules)}
Path("probed.json").write_text(json.dumps(found))
"""


def digest(step, *parts):
    plain = [
        part.model_dump(mode="json") if hasattr(part, "model_dump") else part for part in parts
    ]
    return of_settings({"settings": without_nulls(plain), **in_digest(step)})


def probed(folder, scale):
    """A scale's study, and what the workflow says of it."""
    (folder / "mine.yaml").write_text(yaml.safe_dump(scale))
    (folder / "probe.smk").write_text(PROBE)
    for name in ("Snakefile", "workflow", "profiles", "config", "envs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    command = ["-m", "snakemake", "-s", "probe.smk", "-n", "theorem_3_1", "--cores", "1"]
    done = subprocess.run(
        [sys.executable, *command, "--configfile", "mine.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return config.load(folder / "mine.yaml"), json.loads((folder / "probed.json").read_text())


def smoke():
    return yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return probed(tmp_path_factory.mktemp("first"), smoke())


def untuned(study):
    """What `write_corpus` records as its settings, but for files."""
    run, downstream = sources.language_runs(study)[0], study.downstream
    sizes = {name: getattr(run.generator, name) for name in corpora._SIZES}
    return digest("rollouts", downstream.corpus, downstream.seed, run.prompt_style, sizes)


def test_seed_0_and_no_sweep_add_nothing(first):
    study, found = first
    downstream = study.downstream
    assert found["digests"] == {
        "untuned_corpus": untuned(study),
        "replay": digest("replay", downstream.replay, downstream.cpt.tokens),
        "claims": digest("claims", study.scale),
    }


def test_the_length_of_responses_changes_the_untuned_text(first, tmp_path):
    scale = smoke()
    scale["defaults"]["generator"]["response_tokens"] = 15
    study, found = probed(tmp_path, scale)
    before = first[1]["digests"]
    assert found["digests"]["untuned_corpus"] == untuned(study) != before["untuned_corpus"]
    assert found["digests"]["replay"] == before["replay"]


def test_the_seed_changes_the_replay_text_and_a_sweep_the_ledger(tmp_path):
    table = tmp_path / "results" / "smoke" / "figures" / "sweep.csv"
    table.parent.mkdir(parents=True)
    table.write_text("experiment,variant,learning_rate,chosen\n")
    scale = smoke()
    scale["downstream"]["seed"] = 1
    study, found = probed(tmp_path, scale)
    replay, tokens = study.downstream.replay, study.downstream.cpt.tokens
    assert found["digests"]["replay"] == digest("replay", replay, tokens, 1)
    assert found["digests"]["claims"] == digest("claims", study.scale, of_file(table))


def test_what_needs_a_network_runs_where_snakemake_runs(first):
    downloads = {"wikipedia_wheel", "campaigns", "reward_model", "fetch_model", "environment"}
    assert downloads <= set(first[1]["local"])
