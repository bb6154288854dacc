"""Run `snakemake --lint` and ignore the findings that are justified in this file.

    python .ci/workflow_lint.py snakemake --lint --configfile config/smoke.yaml

Snakemake's linter cannot ignore findings itself. The exit status is 1 if a finding is left, or if
the linter itself failed.
"""

import re
import subprocess
import sys

# The beginning of a finding's title -> why it does not apply to this workflow.
JUSTIFIED = {
    "Specify a conda environment or container for each rule": (
        "environments are locked in envs/ and made by pip; conda and containers are not needed"
    ),
}

_HEAD = re.compile(r"^Lints for (?P<place>.*):$")
_TITLE = re.compile(r"^    \* (?P<title>.*?):?$")


def split(output: str) -> list[tuple[str, str, str]]:
    """Return each finding in Snakemake's output as (place, title, whole text)."""
    lints: list[tuple[str, str, str]] = []
    place = ""
    for line in output.splitlines():
        if match := _HEAD.match(line):
            place = match["place"]
        elif match := _TITLE.match(line):
            lints.append((place, match["title"], line))
        elif lints and line.startswith("      "):
            place_, title, text = lints[-1]
            lints[-1] = (place_, title, f"{text}\n{line}")
    return lints


def main(command: list[str]) -> int:
    """Run the linter; print the findings that are left, and how many were ignored."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lints = split(result.stdout)
    left = [lint for lint in lints if not lint[1].startswith(tuple(JUSTIFIED))]
    for place, _, text in left:
        print(f"{place}:\n{text}")
    if result.returncode and not lints:
        print(result.stdout)
        return 1
    for title, reason in JUSTIFIED.items():
        number = sum(lint[1].startswith(title) for lint in lints)
        if number:
            print(f"set aside {number} times: {title} ({reason})")
    print(f"snakemake --lint: {len(left)} findings")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
