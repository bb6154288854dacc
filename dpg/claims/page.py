"""The ledger: JSON with every number, Markdown to read, an HTML page for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.claims.verdicts import FAILS, HOLDS, UNTESTED, Verdict

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
- {{ c.words() }}{% if c.relation %}: {{ c.state }}{% endif %}
{%- endfor %}
{% endfor -%}
"""

_HTML = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>The paper's claims at scale {{ scale }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .35em .8em .35em 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } ul { margin: .3em 0; padding-left: 1.2em }
.v { white-space: nowrap; font-weight: 600 } .holds { color: #00694e } .fails { color: #a04400 }
.untested { color: #6e6e6e } small { color: #555 } summary { cursor: pointer }
</style>
<h1>The paper's claims at scale {{ scale }}</h1>
<p>{{ summary }}</p>
<table>
<tr><th>Claim<th>Place<th>Verdict and numbers</tr>
{% for v in verdicts -%}
<tr id="{{ v.claim.name }}"><td>{{ v.claim.words }}<td>{{ v.claim.place }}
<td><span class="v {{ marks[v.verdict] }}">{{ v.verdict }}</span>
<details><summary>{{ v.line }}</summary><small>{{ v.claim.method }}</small>
<ul>{% for c in v.conditions %}<li>{{ c.words() }}{% if c.relation %}: {{ c.state }}{% endif %}\
{% endfor %}</ul></details></tr>
{% endfor -%}
</table>
</html>
"""

_MARKS = {HOLDS: "holds", FAILS: "fails", UNTESTED: "untested"}


def write(verdicts: Sequence[Verdict], out_dir: str | Path, *, scale: str, seeds: Sequence[int]):
    """Write `claims.json`, `claims.md` and `claims.html`, each whole or not at all.

    Args:
        verdicts: in the order of the ledger.
        out_dir: where.
        scale, seeds: of the study.

    Returns:
        The three paths.
    """
    import jinja2

    known = {"scale": scale, "summary": summary(verdicts, seeds), "verdicts": verdicts}
    out = Path(out_dir)
    record: dict[str, Any] = {
        "scale": scale,
        "seeds": list(seeds),
        "claims": [verdict.record() for verdict in verdicts],
    }
    artifacts.write_json(out / "claims.json", record)
    for name, template, escape in (("claims.md", _MARKDOWN, False), ("claims.html", _HTML, True)):
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=escape)
        with artifacts.atomic_path(out / name) as partial:
            text = environment.from_string(template).render(**known, marks=_MARKS)
            partial.write_text(text, encoding="utf-8")
    return [out / f"claims.{kind}" for kind in ("json", "md", "html")]


def summary(verdicts: Sequence[Verdict], seeds: Sequence[int]) -> str:
    """How many claims hold, do not, and were not tested; and what one seed is worth."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    words = (
        f"{len(verdicts)} claims. Hold: {counts[HOLDS]}; do not hold: {counts[FAILS]}; not tested "
        f"at this scale: {counts[UNTESTED]}."
    )
    if len(seeds) == 1:
        return words + (
            " Generators were trained with one seed: a verdict with (1 seed) says what that run "
            "did and is not a statistical statement."
        )
    return words + f" Generators were trained with {len(seeds)} seeds."
