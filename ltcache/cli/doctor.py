"""``ltcache doctor``."""

from __future__ import annotations

import click

from ltcache.cli.options import general, print_json


@click.command("doctor", short_help="Look at what this machine has, and what it lacks.")
@general
def command(as_json: bool) -> None:
    """Look at the libraries, the device, processors, memory for loaders and the disk, and encode a
    few packaged images.

    Nothing is downloaded and nothing is left behind. Exit status 1 if something does not work; its
    remedy is printed. What it prints belongs into a report of a problem.

    \b
    ltcache doctor
    ltcache doctor --json
    """
    from ltcache.examine.doctor import FAILED, examine

    found = []
    for finding in examine():
        found.append(finding)
        if not as_json:
            click.echo(f"{finding.status:6}  {finding.name}: {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':6}  -> {finding.remedy}")
    if as_json:
        print_json(found)
    if failed := [finding.name for finding in found if finding.status == FAILED]:
        click.echo(f"ltcache: does not work here: {', '.join(failed)}", err=True)
        raise SystemExit(1)
