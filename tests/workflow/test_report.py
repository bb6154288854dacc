"""The report, opened in a browser without a network: every figure is drawn, the claims are read."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake")

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference" / "tiny"
BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

# Opens every picture as the report itself would, reads the claims' page, and says on the console
# what it saw.
VISIT = """
<script>
window.addEventListener("load", async () => {
  const seen = {pictures: {}, errors: []};
  while (!app) await new Promise((resolve) => setTimeout(resolve, 1000));  // the page draws itself
  window.onerror = (message) => seen.errors.push(message);
  for (const [path, result] of Object.entries(results)) {
    if (!path.endsWith(".png")) continue;
    app.setView({content: "img", contentPath: result.data_uri});
    const image = new Image();
    image.src = result.data_uri;
    await image.decode();
    seen.pictures[path.split("/").pop()] = [image.naturalWidth, image.naturalHeight];
  }
  const claims = Object.keys(results).find((path) => path.endsWith("claims.html"));
  const text = await (await fetch(results[claims].data_uri)).text();
  const page = new DOMParser().parseFromString(text, "text/html");
  seen.claims = Array.from(page.querySelectorAll("tr[id]"), (row) => row.id);
  seen.categories = Object.keys(categories);
  const first = Object.keys(results).find((path) => path.endsWith("figure_2.png"));
  app.showCategory("Figures");
  app.setView({content: "img", contentPath: results[first].data_uri});
  console.log("SEEN " + JSON.stringify(seen));
});
</script>
"""


def snakemake(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", "workflow/reference.smk", "--cores", "1",
         "--quiet", "all", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of the reference results, as `make report SCALE=reference` makes it."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("workflow", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "results" / "reference").mkdir(parents=True)
    (folder / "results" / "reference" / "tiny").symlink_to(REFERENCE)
    snakemake(folder)
    snakemake(folder, "--report", "report.html")
    return folder / "report.html"


@pytest.mark.slow
def test_it_is_one_file_with_every_figure_table_and_page(report):
    text = report.read_text(encoding="utf-8")
    names = {path.name for path in REFERENCE.glob("*.png")}
    names |= {path.name for path in REFERENCE.glob("table_*.csv")}
    names |= {"claims.html", "generations.html", "provenance.html"}
    assert len(names) >= 16
    assert not [name for name in names if f"results/reference-report/{name}" not in text]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)}")
def test_a_browser_without_a_network_shows_the_figures_and_the_claims(report, tmp_path):
    page = report.with_name("visited.html")
    page.write_text(report.read_text(encoding="utf-8") + VISIT, encoding="utf-8")
    pictures = Path(os.environ.get("DPG_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=60000",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={pictures / 'report.png'}",
         "--enable-logging=stderr", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'"SEEN (\{.*\})", source', done.stderr)
    assert found, done.stderr[-2000:]
    seen = json.loads(found[1])
    assert seen["errors"] == []
    assert set(seen["categories"]) == {"Figures", "Tables", "Claims", "Generations", "Provenance"}
    assert set(seen["pictures"]) == {path.name for path in REFERENCE.glob("*.png")}
    assert all(width > 300 and height > 100 for width, height in seen["pictures"].values())
    record = json.loads((REFERENCE / "claims.json").read_text())
    assert seen["claims"] == [claim["name"] for claim in record["claims"]]
    assert (pictures / "report.png").stat().st_size > 20_000
