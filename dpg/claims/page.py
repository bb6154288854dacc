"""Write the ledger: JSON with every number, Markdown for reading, an HTML page for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpg import artifacts, webpage
from dpg.claims.verdicts import FAILS, HOLDS, UNDECIDED, UNTESTED, Verdict, in_full

_MARKDOWN = """\
# The paper's claims at scale {{ scale }}

{{ summary }}

| claim | place in the paper | verdict |
|---|---|---|
{% for v in verdicts -%}
| [{{ v.claim.words }}](#{{ v.claim.name }}) | {{ v.claim.place }} | {{ v.verdict }} |
{% endfor %}
{%- for v in verdicts %}
## {{ v.claim.name }}

{{ v.claim.words }} ({{ v.claim.place }})

**{{ v.line }}**

{{ v.claim.method }}
{% for c in v.conditions %}
- {{ in_full(c.record()) }}
{%- endfor %}
{% endfor -%}
"""

_HTML = """\
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
<table>
<tr><th>Claim<th>Place<th>Verdict and numbers</tr>
{% for v in verdicts -%}
<tr id="{{ v.claim.name }}"><td>{{ v.claim.words }}<td>{{ v.claim.place }}
<td><span class="verdict {{ marks[v.verdict] }}">{{ v.verdict }}</span>
<details><summary>{{ v.line }}</summary><small>{{ v.claim.method }}</small>
<ul>{% for c in v.conditions %}<li>{{ in_full(c.record()) }}{% endfor %}</ul></details></tr>
{% endfor -%}
</table>
"""

MARKS = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "undecided", UNTESTED: "untested"}
"""Verdict -> its CSS class in a page."""


def write(
    verdicts: Sequence[Verdict], out_dir: str | Path, *, scale: str, seeds: Sequence[int]
) -> list[Path]:
    """Write `claims.json`, `claims.md` and `claims.html`, each whole or not at all.

    Args:
        verdicts: in the order of the ledger.
        out_dir: folder of the files.
        scale, seeds: of the study.

    Returns:
        The three paths.
    """
    known = {
        "scale": scale,
        "summary": summary([one.verdict for one in verdicts], seeds),
        "verdicts": verdicts,
        "in_full": in_full,
    }
    out = Path(out_dir)
    record: dict[str, Any] = {
        "scale": scale,
        "seeds": list(seeds),
        "claims": [verdict.record() for verdict in verdicts],
    }
    artifacts.write_json(out / "claims.json", record)
    title = f"The paper's claims at scale {scale}"
    artifacts.write_text(
        out / "claims.html", webpage.render(_HTML, title=title, marks=MARKS, **known)
    )
    artifacts.write_text(out / "claims.md", _markdown(**known))
    return [out / f"claims.{kind}" for kind in ("json", "md", "html")]


def _markdown(**values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return environment.from_string(_MARKDOWN).render(**values)


def summary(verdicts: Sequence[str], seeds: Sequence[int]) -> str:
    """A summary in words: how many claims have each verdict, and over how many seeds."""
    counts = Counter(verdicts)
    words = (
        f"{len(verdicts)} claims. Hold: {counts[HOLDS]}; do not hold: {counts[FAILS]}; undecided: "
        f"{counts[UNDECIDED]}; not tested at this scale: {counts[UNTESTED]}."
    )
    if len(seeds) == 1:
        return words + (
            " Generators were trained with one seed. Intervals are over validation rollouts, "
            "neighbouring validations or passages within it, and say nothing about other seeds."
        )
    return words + (
        f" Generators were trained with up to {len(seeds)} seeds. Each verdict says with how many."
    )
