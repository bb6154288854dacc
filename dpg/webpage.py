"""The common look of all HTML pages of the results: head, style and a strict template."""

from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
"""The style sheet of self-contained pages: the report and the page of `dpg score`."""

_HEAD = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em }
table { border-collapse: collapse; margin: .6em 0 1.6em } td, th { padding: .3em .9em .3em 0;
text-align: left; vertical-align: top; border-bottom: 1px solid #ddd } th { white-space: nowrap }
td.number { text-align: right; font-variant-numeric: tabular-nums }
ul { margin: .3em 0; padding-left: 1.2em } h2 { margin-top: 2em } summary { cursor: pointer }
blockquote { margin: .4em 0; color: #555 } pre { background: #f6f6f6; padding: 1em; overflow: auto }
small { color: #555 } .verdict { white-space: nowrap; font-weight: 600 } .holds { color: #00694e }
.fails { color: #a04400 } .undecided { color: #7a5c00 } .untested { color: #6e6e6e }
</style>
"""


def render(body: str, *, title: str, **values: Any) -> str:
    """A whole page.

    Args:
        body: a Jinja template of the part after the head; it may use `title`, too.
        title: of the browser's window.
        values: the template's variables, escaped. A variable without a value is an error.

    Raises:
        jinja2.UndefinedError: a variable without a value.
    """
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    return environment.from_string(_HEAD + body + "</html>\n").render(title=title, **values)
