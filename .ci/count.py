"""Print how many tests passed, failed and were skipped, from pytest's JUnit reports.

    python .ci/count.py REPORT...

Every named report must exist. If none is named, no tests were run.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def count(report: Path) -> tuple[int, int, int]:
    """Return the numbers of tests that passed, failed (including errors) and were skipped."""
    passed = failed = skipped = 0
    for case in ET.parse(report).getroot().iter("testcase"):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            failed += 1
        elif "skipped" in outcomes:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main(reports: list[Path]) -> int:
    """Print the totals; return 1 if a test failed, or a report is missing or damaged."""
    status = 0
    totals = [0, 0, 0]
    for report in reports:
        try:
            counts = count(report)
        except (OSError, ET.ParseError) as error:
            print(f"{report.stem}: pytest left no report ({error})")
            status = 1
            continue
        totals = [total + number for total, number in zip(totals, counts, strict=True)]
    passed, failed, skipped = totals
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else status


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
