"""Own files are inputs: mend an article or change a model, and what was made is made again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpg.artifacts import read_table

pytest.importorskip("snakemake")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("text/articles.parquet", "text/passages.parquet", "models/own")


@pytest.fixture
def mine(tmp_path, world):
    """A study of articles, passages and a model in folders of the user's own."""
    articles, passages = tmp_path / "my articles", tmp_path / "passages"
    articles.mkdir()
    passages.mkdir()
    for i in range(8):
        (articles / f"{i}.txt").write_text(f"Article number {i} has its own words.")
    for code in ("de", "en", "es", "fr", "it"):
        lines = [json.dumps({"text": f"palabra uno {i} dos {code}"}) + "\n" for i in range(9)]
        (passages / f"{code}.jsonl").write_text("".join(lines))
    shutil.copytree(world.root / "llama", tmp_path / "model")
    scale = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    scale |= {"scale": "mine", "downstream": None}
    of_articles = {"source": "folder", "train": 4, "validation": 2, "min_words": 3}
    scale["text"] = {
        "articles": of_articles | {"folder": str(articles)},
        "passages": {"source": "folder", "folder": str(passages)},
    }
    scale["models"]["own"] = {"source": "folder", "folder": str(tmp_path / "model")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(scale))
    for name in ("Snakefile", "workflow", "profiles", "config", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def made(folder):
    """Run the workflow for the targets; returns its output."""
    wanted = [f"results/mine/{name}" for name in TARGETS]
    command = ["-m", "snakemake", "--cores", "1", *wanted, "--configfile", "mine.yaml"]
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def table(folder, name):
    return read_table(folder / "results" / "mine" / "text" / f"{name}.parquet")


def test_what_is_made_of_own_files_follows_them(mine):
    made(mine)
    assert "Nothing to be done" in made(mine)
    for path in (mine / "my articles").iterdir():
        path.write_text(path.read_text().replace("Article", "MENDED article"))
    out = made(mine)
    assert table(mine, "articles").text.str.startswith("MENDED").all()
    assert "passages" not in out

    spanish = mine / "passages" / "es.jsonl"
    spanish.write_text(spanish.read_text().replace("palabra", "mejorada"))
    made(mine)
    passages = table(mine, "passages")
    assert passages[passages.language == "es"].text.str.startswith("mejorada").all()

    (mine / "my articles" / "7.txt").unlink()
    made(mine)
    assert "Nothing to be done" in made(mine)
    assert not table(mine, "articles").text.str.contains("number 7").any()

    own = mine / "results" / "mine" / "models" / "own"
    before = own.stat().st_mtime_ns
    config = mine / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    made(mine)
    assert own.stat().st_mtime_ns > before
