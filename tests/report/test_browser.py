"""The report in a browser without a network: it fits a screen of any width, and it is drawn."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dpg.report import material, page

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference" / "tiny"
BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = (1200, 800, 400)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)}"),
]

# A browser's own window has a least width: a frame inside of it has none.
FRAME = """<!doctype html><html><body style="margin:0">
<iframe id="frame" src="report.html" style="border:0;width:{width}px;height:{height}px"></iframe>
<pre id="seen"></pre><script>
addEventListener("load", () => {{
  const page = document.getElementById("frame").contentDocument;
  const wide = Array.from(page.querySelectorAll("figure, section, .cards, .plate, .scroll"))
    .filter((part) => part.getBoundingClientRect().right > {width});
  const drawn = Array.from(page.querySelectorAll("figure svg.drawn"), (one) =>
    [one.closest("figure").id, one.getBoundingClientRect().width]);
  document.getElementById("seen").textContent = "SEEN" + JSON.stringify({{
    width: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
    wide: wide.map((part) => part.id || part.className), drawn: Object.fromEntries(drawn),
  }}) + "END";
}});
</script></body></html>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    page.write(material.of_reference(REFERENCE), folder / "report.html")
    return folder


def browse(folder, width, height, *arguments):
    frame = folder / f"frame-{width}.html"
    frame.write_text(FRAME.format(width=width, height=height), encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--window-size={max(width, 500)},{height}", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--allow-file-access-from-files", "--virtual-time-budget=20000",
         f"--user-data-dir={folder / 'profile'}", *arguments, frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_reaches_over_the_edge_and_every_figure_is_drawn(folder, width, tmp_path):
    found = re.search(r"SEEN(\{.*\})END", browse(folder, width, 900, "--dump-dom"))
    assert found
    seen = json.loads(found[1])
    assert seen["width"] <= width
    assert seen["wide"] == []
    assert set(seen["drawn"]) == {path.stem for path in REFERENCE.glob("*.png")}
    assert min(seen["drawn"].values()) > 300
    pictures = Path(os.environ.get("DPG_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    picture = pictures / f"report-{width}.png"
    browse(folder, width, min(seen["height"], 16_000), f"--screenshot={picture}")
    assert picture.stat().st_size > 100_000  # not a blank page
