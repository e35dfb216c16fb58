"""``ltcache retrieve-tail``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli import completion
from ltcache.cli.combinations import excludes, needs, option_rules, refuse_given
from ltcache.cli.engine import actor_request, engine_options, engine_rules
from ltcache.cli.former_spellings import (
    former_options,
    former_rules,
    plan_review,
    run_what_it_is_now,
)
from ltcache.cli.options import (
    CachePath,
    LocalPath,
    allow_stale,
    general,
    print_json,
    terminal_width,
)
from ltcache.cli.parts import merge_rule, part_options, tell_part
from ltcache.cli.progress import ProgressBar
from ltcache.errors import UsageError
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.cache import Cache
    from ltcache.process import ActorRequest
    from ltcache.retrieval import (
        ExactPass,
        IndexRequest,
        PoolIndex,
        RetrievalResult,
        RetrievalSettings,
    )

_OF_GUARDS = {
    "threshold": ("threshold", "precision"),
    "margin": ("margin",),
    "sources": ("per_source",),
    "all": ("threshold", "precision", "margin", "per_source"),
}
"""Guard that is switched off -> what it would have been set by."""


_OF_PARTS = (
    "groups", "max_count", "labels", "per_class", "up_to", "threshold", "precision", "margin",
    "tau", "prompts", "pooling", "mean_weight", "false_alarm", "per_source", "source_column", "off",
    "candidates", "index", "device", "of_pass", "allow_stale",
)  # fmt: skip
_IN_PARTS = ("part", "engine")
_OF_RESULTS = ("decisions", "gallery", "tsne", "source", "pool_sources")
"""Options that say what is retrieved; and former ones about what follows."""


@click.command("retrieve-tail", short_help="Choose images of an unlabelled pool for rare classes.")
@click.argument("cache", required=False, metavar="CACHE", type=CachePath())
@click.argument("pools", nargs=-1, metavar="POOL...", type=CachePath())
@click.option("--out", type=LocalPath(), help="The result to write.  [required]")
@click.option(
    "--group",
    "groups",
    multiple=True,
    type=click.Choice(["many", "medium", "few"]),
    help="Classes of this group; few by default. May be repeated.",
)
@click.option("--max-count", type=click.IntRange(0), help="Classes with at most so many images.")
@click.option("--labels", help="These classes: comma-separated labels.")
@click.option("--per-class", type=click.IntRange(1), help="Images for each class.")
@click.option("--up-to", help="Fill each class up to this count, or 'median' (the default).")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least p_k.  [default: 0.5]")
@click.option(
    "--to-precision",
    "precision",
    type=float,
    help="Calibrate the least p_k on labelled training images to this precision instead.",
)
@click.option(
    "--margin",
    type=float,
    default=0.0,
    show_default=True,
    help="Least log p_k - log p of the best other class; 0: no other class is more probable.",
)
@click.option("--tau", type=float, help="Of the softmax.  [default: 1 / logit scale]")
@click.option(
    "--prompts",
    shell_complete=completion.prompt_names,
    help="A set of class texts of CACHE.  [default: default]",
)
@click.option(
    "--synonyms",
    "pooling",
    type=click.Choice(["mean", "max"]),
    default="mean",
    show_default=True,
    help="Several sentences of a class count as their mean, or as the nearest of them.",
)
@click.option(
    "--mean-weight",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the class mean of training images in each prompt.",
)
@click.option(
    "--false-alarm",
    type=float,
    default=0.003,
    show_default=True,
    help="Share of unlike training images that may count as near duplicates: sets the threshold. "
    "Higher finds more copies and refuses more images of rare classes.",
)
@click.option("--per-source", type=click.IntRange(1), help="Most images of a source in one class.")
@click.option("--source-column", help="Column of the pool.  [default: source, or the url's host]")
@click.option(
    "--without-guard",
    "off",
    multiple=True,
    type=click.Choice(["threshold", "margin", "duplicates", "leaks", "sources", "all"]),
    help="Switch a guard off. May be repeated.",
)
@click.option("--candidates", type=click.IntRange(1), help="Per class, before the guards.")
@click.option(
    "--index",
    metavar="flat|ivf|hnsw|ivfpq|auto|DIR",
    help="Take candidates from a FAISS index, built now or saved in DIR; by default all of the "
    "pool is scored.",
)
@click.option("--save-index", type=LocalPath(), help="Keep the index for later.")
@click.option("--factor", type=click.IntRange(1), help="Candidates of an index per image wanted.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option(
    "--precision",
    "of_pass",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the first pass; candidates are scored again in float64 either way.",
)
@part_options(
    "Score the I-th, from 1, of N parts of the pool",
    "OUT",
    "CACHE and POOL",
    ": the result is that of one pass, to the bit",
)
@engine_options("one for each GPU of the cluster with --device, or for each machine")
@click.option("--overwrite", is_flag=True, help="Replace a result of other settings.")
@former_options
@allow_stale
@general
@option_rules(
    *former_rules,
    excludes("groups", "max_count", "labels", why="one choice of classes at a time"),
    excludes("max_count", "labels", why="one choice of classes at a time"),
    excludes("per_class", "up_to", why="one number of images at a time"),
    excludes("threshold", "precision", why="one way to the least p_k at a time"),
    *(excludes(f"off={guard}", *used) for guard, used in _OF_GUARDS.items()),
    needs("save_index", "index", why="choose one that is built"),
    needs("factor", "index"),
    excludes("index", "of_pass", why="only a pass over all of the pool has one"),
    merge_rule(*_OF_PARTS),
    excludes("merge", *_OF_RESULTS, why="type ltcache review, once the parts are merged"),
    *engine_rules("part", "merge"),
    *(excludes(name, "index", why="each part is scored as a whole") for name in _IN_PARTS),
    *(
        excludes(name, "of_pass", why="the parts of a pass in bf16 do not give its lists")
        for name in _IN_PARTS
    ),
    excludes("part", "overwrite", *_OF_RESULTS, why="the parts are merged first"),
    excludes("engine", *_OF_RESULTS, why="type ltcache review after it"),
)
def command(
    cache: Path | None, pools: tuple[Path, ...], out: Path | None, as_json: bool, **options: Any
) -> None:
    """Choose images of the unlabelled POOL for the rare classes of CACHE, by class prompts.
    Several pools are searched as one.

    Images are ranked by the softmax over all class prompts. Guards keep out what is improbable, as
    near to another class, a copy of a training image or of another pick, or the same as a
    validation or test image. OUT holds every candidate with what became of it and why; look at it
    with ltcache review, and train on it with ltcache fit-adapter --extra OUT.

    \b
    ltcache extract web/ --unlabelled --out pool
    ltcache retrieve-tail cache pool --out retrieved --to-precision 0.8
    ltcache retrieve-tail cache pool --out retrieved --max-count 20 --up-to 50 --per-source 10
    ltcache retrieve-tail cache pool --part 1/4 --out parts    # and 2/4, 3/4, 4/4, anywhere
    ltcache retrieve-tail --merge parts --out retrieved
    ltcache retrieve-tail cache pool --out retrieved --engine ray --actors 4   # the same, by Ray
    ltcache review retrieved cache --source photos/ --pool-source web/
    """
    if run_what_it_is_now():
        return
    merge, part = (options.pop(name) for name in ("merge", "part"))
    if merge:
        _merge(cache, pools, out, as_json, options["overwrite"])
        return
    if cache is None or not pools or out is None:
        raise UsageError("give CACHE, POOL and --out")
    from ltcache.cache import open_cache
    from ltcache.cli.review import write_for_review
    from ltcache.retrieval import RetrievalSettings

    opened, sources = open_cache(cache), [open_cache(pool) for pool in pools]
    stores, tsne = plan_review(opened, sources, out, options)
    options |= {"labels": _labels(options["labels"]), "up_to": _up_to(options["up_to"])}
    names = (field.name for field in fields(RetrievalSettings))
    settings = RetrievalSettings(**{name: options[name] for name in names if name in options})
    if part:
        path = _retrieve_part(opened, sources, part, out, settings, options)
        tell_part(path, "retrieve-tail", " --out RETRIEVED", as_json)
        return
    if request := actor_request(options):
        result = _retrieve_on_ray(cache, pools, out, settings, request, options)
    else:
        result = _retrieve(opened, sources, out, settings, options)
    write_for_review(result, opened, stores, tsne)
    if as_json:
        print_json(result.record.to_dict() | {"path": str(out)})
    else:
        _show(result, str(cache))


def _merge(
    cache: Path | None, pools: tuple[Path, ...], out: Path | None, as_json: bool, overwrite: bool
) -> None:
    from ltcache.retrieval import merge_retrieval

    if cache is None or out is None:
        raise UsageError("--merge: give what --part has written, files or folders, and --out")
    result = merge_retrieval([cache, *pools], out, overwrite=overwrite)
    if as_json:
        print_json(result.record.to_dict() | {"path": str(out)})
    else:
        _show(result, str(result.cache_path))


def _retrieve_part(
    cache: Cache,
    pools: Sequence[Cache],
    part: str,
    out: Path,
    settings: RetrievalSettings,
    options: Mapping[str, Any],
) -> Path:
    from ltcache.encoder import own_device
    from ltcache.process import launched_process
    from ltcache.retrieval import retrieve_part

    device = own_device(_device(options["device"]), launched_process().local_rank)
    with ScoringBar() as bar:
        return retrieve_part(
            cache,
            pools,
            part,
            out,
            settings,
            device=device,
            progress=bar,
            allow_stale=options["allow_stale"],
        )


def _retrieve_on_ray(
    cache: Path,
    pools: Sequence[Path],
    out: Path,
    settings: RetrievalSettings,
    request: ActorRequest,
    options: Mapping[str, Any],
) -> RetrievalResult:
    from ltcache.retrieval import retrieve_on_ray

    named = {name: options[name] for name in ("device", "allow_stale", "overwrite")}
    return retrieve_on_ray(cache, pools, out, settings, request=request, **named)


def _retrieve(
    cache: Cache,
    pools: Sequence[Cache],
    out: Path,
    settings: RetrievalSettings,
    options: Mapping[str, Any],
) -> RetrievalResult:
    from ltcache.retrieval import read_decisions, retrieve_tail

    decisions = read_decisions(options["decisions"]) if options["decisions"] else None
    with ScoringBar() as bar:
        return retrieve_tail(
            cache,
            pools,
            out,
            settings,
            ranking=_ranking(pools, settings.view, bar, options),
            allow_stale=options["allow_stale"],
            overwrite=options["overwrite"],
            decisions=decisions,
        )


def _ranking(
    pools: Sequence[Cache], view: str, bar: ScoringBar, options: Mapping[str, Any]
) -> ExactPass | IndexRequest | PoolIndex:
    """Return what ranks: an exact pass, or the index that the options name."""
    from ltcache.retrieval import (
        KINDS,
        CachedPool,
        ExactPass,
        IndexRequest,
        JoinedPool,
        open_index,
    )

    wanted, keep = options["index"], options["save_index"]
    exact = ExactPass(_device(options["device"]), options["of_pass"], bar)
    if wanted is None:
        return exact
    refuse_given(("device",), "an index is searched where FAISS puts it")
    if wanted in KINDS:
        return IndexRequest(wanted, options["factor"], partial(_keep_index, keep), exact)
    refuse_given(("factor",), f"{wanted} was saved with its own")
    index = open_index(wanted, JoinedPool([CachedPool(pool, view) for pool in pools]))
    _keep_index(keep, index)
    return index


def _keep_index(keep: Path | None, index: PoolIndex | None) -> None:
    """Say what an index is good for, and save it where a place is named."""
    if index is None:
        click.echo(
            "no index reaches a list recall of 0.95 on this pool; all of it is scored instead",
            err=True,
        )
        return
    record = index.record
    click.echo(
        f"index {record.kind} ({record.why}): recall {record.recall_inner_product:.3f} "
        f"of inner products, {record.recall_list:.3f} of the lists at {record.factor} "
        "candidates for each image",
        err=True,
    )
    if keep is not None:
        index.save(keep)


def _show(result: RetrievalResult, typed: str) -> None:
    from ltcache.tables import markdown_table

    heading = ["class", "training images", "wanted", "taken", "rejected, by reason"]
    rows = []
    for entry in result.classes:
        reasons = ", ".join(f"{name} {n}" for name, n in entry.rejected.items())
        numbers = map(str, (entry.train, entry.quota, entry.accepted))
        rows.append([f"{entry.label} {entry.name}", *numbers, reasons or "-"])
    click.echo(markdown_table(heading, rows, terminal_width()))
    images, classes = sum(result.counts().values()), counted(len(result.classes), "class")
    click.echo(
        f"{result.path}: {counted(images, 'image')} for {classes} "
        f"({result.record.group_scheme}); {_guarded(result)}"
    )
    click.echo(f"look at them: ltcache review {shlex.join([str(result.path), typed])}")
    if not sum(result.counts().values()):
        lower = "" if result.record.least_p is None else "lower --threshold, or "
        click.echo(f"no image was taken: {lower}look at the reasons", err=True)


def _guarded(result: RetrievalResult) -> str:
    """Return which guards of a number were in force."""
    least, near = result.record.least_p, result.record.thresholds.near
    if least is None:
        probable = "any p_k (guard off)"
    elif least.precision is None:
        probable = f"p_k >= {least.value:.4g} (fixed)"
    else:
        reached = f"precision {least.reached:.3f} on {least.support} training images"
        probable = f"p_k >= {least.value:.4g} ({reached})"
    if not result.record.looks_for_copies:
        return f"{probable}; near duplicates not looked for (guards off)"
    return (
        f"{probable}; near duplicates calibrated on {near.images} training images at "
        f"{near.false_alarm:.2%} false alarms"
    )


def _labels(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--labels {text}: give comma-separated numbers, such as 3,17") from None


def _up_to(text: str | None) -> int | str | None:
    if text is None or text == "median":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--up-to {text}: give a number or 'median'") from None


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (name.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise UsageError(f"--device {name}: torch finds no such device; use cpu or auto")
    return name


class ScoringBar(ProgressBar):
    """Called with rows done and rows in all."""

    doing, did = "scoring", "scored"

    def __call__(self, done: int, total: int) -> None:
        """Show one state; a pool that is done at once needs no line."""
        if done < total:
            self.show(done, total, "images of the pool")
