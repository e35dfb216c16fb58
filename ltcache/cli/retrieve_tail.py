"""``ltcache retrieve-tail``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltcache.cli.combinations import excludes, needs, option_rules, refuse_given
from ltcache.cli.options import LocalPath, allow_stale, general, print_json, terminal_width
from ltcache.cli.progress import ProgressBar
from ltcache.errors import UsageError

_OF_RETRIEVAL = (
    "groups", "max_count", "labels", "per_class", "up_to", "threshold", "to_precision", "margin",
    "tau", "prompts", "synonyms", "mean_weight", "false_alarm", "per_source", "source_column",
    "off", "candidates", "save_index", "factor", "precision", "overwrite", "allow_stale",
)  # fmt: skip
_OF_RESULT = ("decisions", "gallery", "tsne", "source", "pool_source")
_OF_SEARCH = ("texts", "images", "top", "model", "pretrained")
_OF_GUARDS = {
    "threshold": ("threshold", "to_precision"),
    "margin": ("margin",),
    "sources": ("per_source",),
    "all": ("threshold", "to_precision", "margin", "per_source"),
}
"""Guard that is switched off -> what it would have been set by."""
_APPLIES = "--apply retrieves nothing, it takes a result that is there"
_SEARCHES = "one cache is searched, and what is found is printed"


@click.command("retrieve-tail", short_help="Choose images of an unlabelled pool for rare classes.")
@click.argument("cache", required=False, type=LocalPath())
@click.argument("pool", required=False, type=LocalPath())
@click.option("--out", type=LocalPath(), help="The result to write.")
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
@click.option("--prompts", help="A set of class texts of CACHE.  [default: default]")
@click.option(
    "--synonyms",
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
@click.option("--text", "texts", multiple=True, help="Search the pool with a sentence instead.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=LocalPath(),
    help="Search the pool with an image instead.",
)
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Of a search.")
@click.option("--model", help="The encoder for a search, if not the one the pool names.")
@click.option("--pretrained", help="Its tag or checkpoint.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the first pass; candidates are scored again in float64 either way.",
)
@click.option("--overwrite", is_flag=True, help="Replace a result of other settings.")
@click.option(
    "--decisions",
    type=LocalPath(),
    help="Accept and reject as this file says, which the gallery exports.",
)
@click.option(
    "--gallery/--no-gallery",
    default=None,
    help="Write gallery.html: look at every class, accept and reject.  [default: where the pool's "
    "images are known]",
)
@click.option("--tsne", is_flag=True, help="Draw training, retrieved and prompt embeddings.")
@click.option("--source", help="What CACHE was extracted from: its images, for the gallery.")
@click.option("--pool-source", help="What POOL was extracted from: its images, for the gallery.")
@click.option(
    "--apply",
    "there",
    metavar="RETRIEVED",
    type=LocalPath(),
    help="Instead of retrieving, take a result that is there for --decisions, --gallery, --tsne.",
)
@allow_stale
@general
@option_rules(
    excludes("there", *_OF_RETRIEVAL, "pool", "out", *_OF_SEARCH, "index", "device", why=_APPLIES),
    excludes("texts", *_OF_RETRIEVAL, *_OF_RESULT, "pool", "out", why=_SEARCHES),
    excludes("images", *_OF_RETRIEVAL, *_OF_RESULT, "pool", "out", why=_SEARCHES),
    *(needs(name, "texts", "images") for name in ("top", "model", "pretrained")),
    needs("pretrained", "model"),
    excludes("groups", "max_count", "labels", why="one choice of classes at a time"),
    excludes("max_count", "labels", why="one choice of classes at a time"),
    excludes("per_class", "up_to", why="one number of images at a time"),
    excludes("threshold", "to_precision", why="one way to the least p_k at a time"),
    *(excludes(f"off={guard}", *used) for guard, used in _OF_GUARDS.items()),
    needs("save_index", "index", why="choose one that is built"),
    needs("factor", "index"),
    excludes("index", "precision", why="only a pass over all of the pool has one"),
    excludes("gallery=False", "source", "pool_source", why="images are for the gallery"),
)
def command(
    cache: Path | None,
    pool: Path | None,
    out: Path | None,
    as_json: bool,
    texts: tuple[str, ...],
    images: tuple[Path, ...],
    **options: Any,
) -> None:
    """Choose images of the unlabelled POOL for the rare classes of CACHE, by class prompts.

    Images are ranked by the softmax over all class prompts. Guards keep out what is improbable, as
    near to another class, a copy of a training image or of another pick, or the same as a
    validation or test image. OUT holds every candidate with what became of it and why.

    A gallery shows the images from disk; --source and --pool-source say where they are. It exports
    decisions, and --apply --decisions puts them into force in place of those before.

    With --text or --image the pool is searched instead, and one cache is enough.

    \b
    ltcache extract web/ --unlabelled --out pool
    ltcache retrieve-tail cache pool --out retrieved --to-precision 0.8
    ltcache retrieve-tail cache pool --out retrieved --max-count 20 --up-to 50 --per-source 10
    ltcache retrieve-tail cache pool --out retrieved --source photos/ --pool-source web/ --tsne
    ltcache retrieve-tail --apply retrieved --decisions decisions.json
    ltcache retrieve-tail pool --text "a drawing of a red fox" --top 20
    """
    if options["there"] is not None:
        from ltcache.cli.gallery import apply_to

        apply_to(options["there"], cache, as_json, options)
        return
    if (texts or images) and cache is not None:
        _search(cache, texts, images, as_json, options)
        return
    if cache is None or pool is None or out is None:
        raise UsageError("give CACHE, POOL and --out, or --text or --image to search one cache")
    _retrieve(cache, pool, out, as_json, options)


def _retrieve(cache: Path, pool: Path, out: Path, as_json: bool, options: dict[str, Any]) -> None:
    from ltcache.cache import open_cache
    from ltcache.cli.gallery import check_pictures, pictures
    from ltcache.retrieval import RetrievalSettings, read_decisions, retrieve_tail

    opened, source = open_cache(cache), open_cache(pool)
    stores = check_pictures(opened.manifest.name, source.manifest.name, options)
    decisions = read_decisions(options["decisions"]) if options["decisions"] else None
    settings = RetrievalSettings(
        groups=options["groups"],
        max_count=options["max_count"],
        labels=_labels(options["labels"]),
        per_class=options["per_class"],
        up_to=_up_to(options["up_to"]),
        candidates=options["candidates"],
        tau=options["tau"],
        prompts=options["prompts"],
        pooling=options["synonyms"],
        mean_weight=options["mean_weight"],
        threshold=options["threshold"],
        precision=options["to_precision"],
        margin=options["margin"],
        false_alarm=options["false_alarm"],
        per_source=options["per_source"],
        source_column=options["source_column"],
        off=options["off"],
    )
    with ScoringBar() as bar:
        result = retrieve_tail(
            opened,
            source,
            out,
            settings,
            index=_index(opened, source, settings, options),
            device=_device(options["device"]),
            precision=options["precision"],
            allow_stale=options["allow_stale"],
            overwrite=options["overwrite"],
            decisions=decisions,
            progress=bar,
        )
    pictures(result, opened, stores, options)
    if as_json:
        print_json(result.record | {"path": str(out)})
        return
    _show(result)


def _index(opened: Any, source: Any, settings: Any, options: dict[str, Any]) -> Any:
    """Return the index that the options name, or None for an exact pass."""
    wanted, keep = options["index"], options["save_index"]
    if wanted is None:
        return None
    refuse_given(("device",), "an index is searched where FAISS puts it")
    from ltcache.retrieval import (
        KINDS,
        CachedPool,
        PoolIndex,
        build_index,
        make_queries,
        open_index,
    )

    pool = CachedPool(source, settings.view)
    if wanted not in KINDS:
        refuse_given(("factor",), f"{wanted} was saved with its own")
        index: PoolIndex | None = open_index(wanted, pool)
    else:
        queries = make_queries(opened, settings)
        index = build_index(pool, queries, wanted, factor=options["factor"])
    if index is None:
        click.echo(
            "no index reaches a list recall of 0.95 on this pool; all of it is scored instead",
            err=True,
        )
        return None
    record = index.record
    click.echo(
        f"index {record['kind']} ({record['why']}): recall {record['recall_inner_product']:.3f} "
        f"of inner products, {record['recall_list']:.3f} of the lists at {record['factor']} "
        "candidates for each image",
        err=True,
    )
    if keep is not None:
        index.save(keep)
    return index


def _search(
    pool: Path,
    texts: tuple[str, ...],
    images: tuple[Path, ...],
    as_json: bool,
    options: dict[str, Any],
) -> None:
    from ltcache.cache import open_cache
    from ltcache.encoder import EncoderChoice
    from ltcache.report import markdown_table
    from ltcache.retrieval import CachedPool, open_index, search_pool

    source = open_cache(pool)
    saved = options["index"]
    index = open_index(saved, CachedPool(source)) if saved else None
    found = search_pool(
        source,
        texts=texts,
        images=images,
        top=options["top"],
        index=index,
        encoder=EncoderChoice(options["model"], options["pretrained"], device=options["device"]),
    )
    if as_json:
        print_json([hit.to_dict() for hit in found])
        return
    rows = [[hit.query, str(hit.rank), f"{hit.cosine:.4f}", hit.key] for hit in found]
    click.echo(markdown_table(["query", "rank", "cosine", "image"], rows, terminal_width()))


def _show(result: Any) -> None:
    from ltcache.report import markdown_table

    heading = ["class", "training images", "wanted", "taken", "rejected, by reason"]
    rows = []
    for entry in result.classes:
        reasons = ", ".join(f"{name} {n}" for name, n in entry["rejected"].items())
        numbers = [str(entry[name]) for name in ("train", "quota", "accepted")]
        rows.append([f"{entry['label']} {entry['name']}", *numbers, reasons or "-"])
    click.echo(markdown_table(heading, rows, terminal_width()))
    least, near = (result.record["thresholds"][name] for name in ("p", "near"))
    how = "fixed"
    if least["precision"] is not None:
        how = f"precision {least['reached']:.3f} on {least['support']} training images"
    click.echo(
        f"{result.path}: {sum(result.counts().values())} images for {len(result.classes)} classes "
        f"({result.record['group_scheme']}); p_k >= {least['value']:.4g} ({how}); near duplicates "
        f"calibrated on {near['images']} training images at {near['false_alarm']:.2%} false alarms"
    )
    if not sum(result.counts().values()):
        click.echo("no image was taken: lower --threshold, or look at the reasons", err=True)


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
