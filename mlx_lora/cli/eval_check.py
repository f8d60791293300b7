"""``mlx-lora eval check``: run a suite's checks over documents that exist already."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import json_option
from .output import print_json, say


@click.command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--suite", "suites", metavar="NAME", required=True, help="A published suite, or FILE.yaml.")
@click.option("--profile", help="Profile of checks that have several, such as seed, template_v3 or relaxed.")
@json_option
def check(files: tuple[Path, ...], suites: str, profile: str | None, as_json: bool) -> None:
    """Run a suite's checks over FILES that exist already: exit status 0 all pass, 1 some fail.

    \b
    mlx-lora eval check docs/*.md --suite pdca_schema --profile template_v3
    """
    from ..evaluation.scoring import check_documents

    report = check_documents(files, suites, profile)
    if as_json:
        print_json(report)
    else:
        for result in report["results"]:
            if not result["passed"]:
                say(f"{result['file']}: {'; '.join(result['reasons'])}")
        named = f"{report['suite']}, profile {report['profile']}" if report["profile"] else report["suite"]
        say(f"{named}: {report['passed']} of {report['files']} documents pass")
    sys.exit(0 if report["passed"] == report["files"] else 1)
