"""The documentation as a site: strictly built, every link of the built pages leads somewhere."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
MKDOCS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_every_page_of_the_navigation_exists():
    named = set(re.findall(r": ([\w/]+\.md)$", MKDOCS, re.M))
    elsewhere = {"index.md", "configuration.md", "contributing.md", "changelog.md"}
    assert elsewhere < named
    assert [name for name in named - elsewhere if not (ROOT / "docs" / name).exists()] == []


def test_the_sites_lock_holds_what_the_extra_asks_for():
    lines = (ROOT / "docs" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    locked = {canonicalize_name(name): version for name, version in pairs}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in project["optional-dependencies"]["docs"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), line


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in {"href", "src"} and value:
                self.links.append(value)
            if key in {"id", "name"} and value:
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """Links of built pages that lead to no file or no anchor; links to other hosts are left out."""
    pages = {
        path: _Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if path.name != "404.html"  # its links are absolute
    }
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            missing = parts.fragment and (
                target in pages and unquote(parts.fragment) not in pages[target].anchors
            )
            if not target.is_file() or missing:
                wrong.append(f"{path.relative_to(site)}: {link}")
    return wrong


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#c"></a> <a href="#d"></a> <p id="e">')
    assert broken_links(tmp_path) == ["a.html: b.html#c", "a.html: #d"]
    (tmp_path / "b.html").write_text('<p id="c"> <a href="a.html#e"></a>')
    assert broken_links(tmp_path) == ["a.html: #d"]


def copy_of_the_sources(folder: Path) -> None:
    """What the site is built from, as Git tracks it."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copyfile(ROOT / name, folder / name)


@pytest.mark.slow
@pytest.mark.network
class TestBuild:
    @pytest.fixture(scope="class")
    @staticmethod
    def built(tmp_path_factory):
        """`make site` in a copy, and the folder."""
        if shutil.which("make") is None:
            pytest.skip("no make on this machine")
        folder = tmp_path_factory.mktemp("clone")
        copy_of_the_sources(folder)
        done = make_site(folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    def test_every_link_of_the_built_pages_leads_somewhere(self, built):
        assert broken_links(built / "build" / "site") == []

    def test_search_finds_pages_and_public_names_and_no_listings_of_code(self, built):
        index = json.loads((built / "build/site/search/search_index.json").read_text())
        places = {entry["location"] for entry in index["docs"]}
        assert {"", "claims/", "api/learner/#dpg.learner.metagradient.metagradient"} <= places
        assert not any(".py/" in place for place in places)

    @pytest.mark.parametrize("package", ["learner", "metrics", "targets"])
    def test_the_reference_has_every_public_name(self, built, package):
        source = (built / "dpg" / package / "__init__.py").read_text(encoding="utf-8")
        names = json.loads("[" + re.search(r"__all__ = \[(.*?),?\s*\]", source, re.S)[1] + "]")
        page = _Page((built / f"build/site/api/{package}/index.html").read_text(encoding="utf-8"))
        there = {anchor.rpartition(".")[2] for anchor in page.anchors}
        assert set(names) - there == set()

    def test_a_link_to_nothing_ends_the_build(self, built):
        page = built / "docs" / "claims.md"
        text = page.read_text(encoding="utf-8")
        page.write_text(text + "\n[gone](../nowhere.md)\n", encoding="utf-8")
        done = make_site(built)
        page.write_text(text, encoding="utf-8")
        assert done.returncode != 0
        assert "docs/claims.md: the link to ../nowhere.md" in done.stdout + done.stderr


def make_site(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "site", f"PYTHON={sys.executable}"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
