"""Lead the links of the pages, which are written to be read as files, to pages of the site.

A page links to files of the repository: other pages, pictures, tables, code. This module brings
every file that can be reached by such links into the site. Code and configuration become pages, so
that a browser shows them. A folder becomes a list of its files. A link to a file that does not
exist ends the build.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "config/README.md": "configuration.md",
}
"""Pages outside docs/, and where they are in the site."""

CODE = {".py": "python", ".yaml": "yaml", ".json": "json", ".txt": "text", ".cff": "yaml"}
"""Files that are shown as a page, with the language of their highlighting."""

_FENCE = re.compile(r"^(\s*(?:```|~~~).*?^\s*(?:```|~~~)\s*$)", re.M | re.S)
_LINK = re.compile(r"\]\((?!\w+:)([^)\s#]+)(#[^)\s]*)?\)")


def outside_fences(markdown: str) -> Iterator[tuple[str, bool]]:
    """Parts of a page with whether each is text; a fenced block of code is not."""
    for number, part in enumerate(_FENCE.split(markdown)):
        yield part, number % 2 == 0


def target_of(source: str, link: str) -> str:
    """The repository path that a link of a page leads to.

    Raises:
        PluginError: there is no such file, or it is outside the repository.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path.startswith("..") or not (ROOT / path).exists():
        raise PluginError(f"{source}: the link to {link} leads to {path}, which does not exist")
    readme = posixpath.join(path, "README.md")
    return readme if (ROOT / readme).exists() else path


def place_of(path: str) -> str:
    """Where a file of the repository is in the site's sources."""
    if path in PAGES:
        return PAGES[path]
    suffix = posixpath.splitext(path)[1]
    if path.startswith("docs/") and suffix in {".md", ".png"}:
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"repository/{path}/index.md"
    return f"repository/{path}.md" if suffix in CODE else f"repository/{path}"


def links_of(markdown: str) -> Iterator[str]:
    """Relative links of a page, without their anchors."""
    for part, is_text in outside_fences(markdown):
        if is_text:
            yield from (match[1] for match in _LINK.finditer(part))


def content_of(path: str) -> str | None:
    """A file of the repository as Markdown; None for what the site copies as it is."""
    file, suffix = ROOT / path, posixpath.splitext(path)[1]
    if file.is_dir():
        names = sorted(entry.name for entry in file.iterdir() if entry.name[0] not in "._")
        return f"# `{path}/`\n\n" + "\n".join(
            f"- [{name}]({path_in(path, name)})" for name in names
        )
    if suffix in CODE:
        head = f"---\nsearch: {{exclude: true}}\n---\n# `{path}`\n\n"
        return f"{head}`````{CODE[suffix]}\n{file.read_text(encoding='utf-8')}\n`````\n"
    return file.read_text(encoding="utf-8") if suffix == ".md" else None


def path_in(folder: str, name: str) -> str:
    """A link from the list of a folder to one of its files: lists are read one level higher."""
    return f"{posixpath.basename(folder)}/{name}"


def reachable() -> dict[str, str | None]:
    """Every file that pages lead to, by its repository path, with its Markdown or None."""
    pages = [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]
    waiting, found = [*PAGES, *pages], {}
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = content_of(path)
        if found[path] is not None and posixpath.splitext(path)[1] not in CODE:
            waiting += [target_of(path, link) for link in links_of(found[path] or "")]
    return found


_sources: dict[str, str] = {}
"""Repository paths by the place in the site; filled by `on_files`."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages of docs/ that mkdocs.yml does not name to the navigation."""
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    others = [page.name for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in named]
    if others and config.nav is not None:
        config.nav.append({"More": others})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring every reachable file into the site."""
    for path, content in reachable().items():
        place = place_of(path)
        _sources[place] = path
        if files.get_file_from_path(place) is not None:
            continue
        if content is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
        else:
            files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each relative link of a page to where its file is in the site."""
    place = page.file.src_uri
    source = _sources.get(place)
    if source is None or posixpath.splitext(source)[1] in CODE:
        return markdown

    def lead(match: re.Match[str]) -> str:
        target = place_of(target_of(source, match[1]))
        return f"]({os.path.relpath(target, posixpath.dirname(place))}{match[2] or ''})"

    return "".join(
        _LINK.sub(lead, part) if is_text else part for part, is_text in outside_fences(markdown)
    )
