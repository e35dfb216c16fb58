"""``ltcache verify``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.combinations import excludes, needs, option_rules
from ltcache.cli.engine import actor_request, engine_options, engine_rules
from ltcache.cli.options import (
    LocalPath,
    encoder_choice,
    general,
    other_encoder,
    print_json,
)
from ltcache.cli.parts import merge_rule, part_options, tell_part
from ltcache.errors import UsageError

if TYPE_CHECKING:
    from ltcache.cache import VerifyReport

_SHOWN = 20
_OF_WHOLE = ("sample", "checks", "repair")


@click.command("verify", short_help="Check every byte and value of a cache.")
@click.argument("places", nargs=-1, required=True, metavar="CACHE")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=0,
    help="Encode so many of the images again and compare; needs the images and the encoder.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Where the images are.  [default: where they were]",
)
@click.option("--source", help="What the cache was extracted from; it may say where they are.")
@other_encoder("The encoder, if not the one the cache names.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    help="Read at most so many shards of each view, spread evenly; the sizes of all are checked.",
)
@click.option(
    "--checks",
    is_flag=True,
    help="Also look for permuted labels, repeated names and images that are in two splits.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Remove damaged shards, for the same ltcache extract to encode exactly these again.",
)
@part_options(
    "Check the I-th, from 1, of N parts of the shards", "--out", "CACHE", ", into one report"
)
@click.option("--out", type=LocalPath(), help="The folder of the part.")
@engine_options("one for each machine of the cluster")
@general
@option_rules(
    merge_rule("shards", *_OF_WHOLE),
    *engine_rules("part", "merge"),
    excludes("part", *_OF_WHOLE, why="all of a cache is looked at for it"),
    needs("out", "part", why="a report is printed"),
    excludes("root", "source", why="--root says where the images are"),
    *(
        needs(name, "sample", why="only a sample is encoded again")
        for name in ("root", "source", "model", "pretrained", "activation", "device")
    ),
    needs("pretrained", "model"),
)
def command(
    places: tuple[str, ...],
    sample: int,
    shards: int | None,
    part: str | None,
    out: Path | None,
    merge: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare every file of CACHE with its digest, and the values in them with each other.

    Exit status 0: finished and fine, or --repair has removed all that was damaged; 1: damaged, and
    each damage is named with its remedy; 1 also where the extraction has not finished, of which all
    that is committed is checked.

    \b
    ltcache verify cache
    ltcache verify cache --repair
    ltcache verify cache --sample 100
    ltcache verify cache --sample 100 --root /data/images
    ltcache verify cache --part 1/4 --out parts    # and 2/4, 3/4, 4/4, anywhere
    ltcache verify --merge parts
    ltcache verify cache --engine ray --actors 4   # the same, by a Ray cluster
    """
    from ltcache.cache import merge_verified, verify_files, verify_on_ray, verify_part
    from ltcache.examine.verify import SampleEncoding, verify

    place, *others = places
    if others and not merge:
        raise UsageError(f"verify {' '.join(places)}: give one CACHE at a time")
    if part is not None:
        if out is None:
            raise UsageError("--part: say where the parts shall be, --out")
        path = verify_part(place, part, out, max_shards=shards)
        tell_part(path, "verify", "", as_json)
        return
    if merge:
        report = merge_verified(places)
    else:
        request = actor_request(options)
        check = verify_files if request is None else partial(verify_on_ray, request=request)
        asked = {name: options.pop(name) for name in ("checks", "repair")}
        again = SampleEncoding(sample, encoder=encoder_choice(options), **options)
        report = verify(place, max_shards=shards, sample=again, check_files=check, **asked)
    _tell(report, as_json)
    if report.exit_status:
        raise SystemExit(report.exit_status)


def _tell(report: VerifyReport, as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(verify_lines(report)))
    for problem in report.left[:_SHOWN]:
        click.echo(f"ltcache: {problem}", err=True)
    if len(report.left) > _SHOWN:
        more = len(report.left) - _SHOWN
        click.echo(f"ltcache: and {more} more damaged files; --json lists them all", err=True)


def verify_lines(report: VerifyReport) -> list[str]:
    """Return a report as lines for people."""
    from ltcache.manifest import printable

    result = [f"{report.path}: {report.files} files, {report.bytes / 1e6:.1f} MB read"]
    if report.finished and report.shards < report.all_shards:
        result[0] += f", {report.shards} of {report.all_shards} shards"
    if report.rows is not None:
        result.append(f"rows: {report.rows}, of which {report.failed} failed")
    for name, stats in report.norms.items():
        if stats.count:
            result.append(
                f"{name}: length {stats.minimum:.4g} to {stats.maximum:.4g}, median "
                f"{stats.median:.4g}; {stats.outliers} far from it"
            )
    if report.reencoded is not None:
        again = report.reencoded
        result.append(
            f"encoded again: {again['images']} images, cosine at least {again['minimum']:.5f} "
            f"({printable(again['worst'])}), median {again['median']:.5f}"
        )
    if report.leftovers:
        shown = ", ".join(report.leftovers[:5])
        result.append(f"left over, harmless: {len(report.leftovers)} files, such as {shown}")
    result += [f"warning: {printable(warning)}" for warning in report.warnings]
    if report.repaired:
        shown = ", ".join(report.repaired[:5])
        result.append(f"removed {len(report.repaired)} damaged shards ({shown})")
    if not report.finished:
        result.append(
            f"NOT FINISHED: {report.shards} of {report.all_shards} shards are committed, "
            f"{report.items} of {report.all_items} images; the same ltcache extract goes on"
        )
        return [*result, _verdict(report, "what is committed is fine")]
    return [*result, _verdict(report, "fine")]


def _verdict(report: VerifyReport, fine: str) -> str:
    if report.ok:
        return fine
    if report.left:
        what = " are left, which --repair cannot remove" if report.repaired else ""
        return f"DAMAGED: {len(report.left)} problems{what}"
    return (
        "REPAIRED: all that was found damaged is removed; run the same ltcache extract (or import) "
        "again, which makes exactly these shards, and ltcache verify after it"
    )
