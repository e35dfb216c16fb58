"""``extract``: from a manifest and an encoder to a finished cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ltcache.cache import CENTER, Cache, Plan, index_path, read_index, read_plan
from ltcache.extract.as_begun import decoder_as_begun, precision_as_begun, threads_as_begun
from ltcache.extract.at_address import to_address
from ltcache.extract.checks import require_choice
from ltcache.extract.kept_splits import keep_splits
from ltcache.extract.layers import first_fields
from ltcache.extract.list_reading import ListReading, read_once
from ltcache.extract.report import ExtractionProgress, ExtractReport
from ltcache.extract.request import ExtractRequest
from ltcache.extract.splitting import checked_recipe
from ltcache.extract.two_passes import begin_or_grow
from ltcache.images import NVJPEG, require_decoder
from ltcache.manifest import Manifest, SplitRecipe, keep_root
from ltcache.process import (
    activations_kept,
    part_of_work,
    usable_processors,
)
from ltcache.records import PlaceKind, require_local, require_replaceable

if TYPE_CHECKING:
    from ltcache.encoder import Encoder

SHARD_SIZE = 1024
"""Items in a shard: what a kill can cost at most, and one file to open per so many rows."""

_WORTH_PROCESSES, _MORE_THAN_THREADS = 10_000, 4  # images; processors
_MANY_SHARDS, _LARGEST_SHARD = 4096, 8192


@to_address
def extract(
    source: str | Path | Manifest,
    out: str | Path,
    *,
    encoder: Encoder | None = None,
    model: str = "embedded",
    pretrained: str | None = None,
    root: str | Path | None = None,
    views: Sequence[str] | None = None,
    view_seed: int | None = None,
    fields: Sequence[str] | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    decode_processes: int | None = None,
    decoder: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    activation: str | None = None,
    max_failures: float = 0.01,
    retry_failed: bool = False,
    rehash: bool = False,
    splitting: SplitRecipe | None = None,
    part: str | None = None,
    finish_only: bool = False,
    progress: Callable[[ExtractionProgress], None] | None = None,
) -> ExtractReport:
    """Encode every image of ``source`` and every class prompt into the cache ``out``.

    An interrupted extraction goes on where it stopped; a finished one is reused at once. Where
    ``source`` has changed since, only new content is encoded: relabelling, moving rows between
    splits and deleting them change the cache's manifest alone. Views and fields that a cache lacks
    are added to it (:mod:`ltcache.cache.layers`), and shards that it has lost are encoded again;
    what is there is never touched.

    Args:
        source: anything :func:`ltcache.manifest.read_manifest` takes, or a manifest. Of several
            processes of a machine the first one reads a long list, and the others map its rows.
        out: the cache's directory, or an ``s3://`` address at which a new cache is made
            (:mod:`ltcache.cache.staging`); a finished one there is reused, never changed.
        encoder: loaded already; else ``model``, ``pretrained``, ``device``, ``precision`` and
            ``activation`` say what to load (:func:`ltcache.encoder.load_encoder`). ``precision`` is
            by default as the cache has it, else ``fp32``.
        root: where the images are, if not where the source says.
        views: ``flip``, ``five``, ``rrc:K``, ``cmo:K`` (:mod:`ltcache.images.views`) besides
            ``center``, which every cache has; by default those it has.
        view_seed: of the random crops of ``rrc:K`` and the composites of ``cmo:K``; 0 for a new
            view.
        fields: ``embedding`` and, for towers that have it, ``pooled``; both by default, or those
            the cache has. ``tokens`` (:mod:`ltcache.encoder.rest`) only if named.
        batch_size: images in one forward pass; 16 on a CPU, 256 on a GPU.
        shard_size: images in one file; what a kill can cost at most. By default 1,024, and more
            from 4 million images on (:func:`shard_size_for`).
        workers: decoding threads; by default the processors, shared with the other processes that
            torchrun or mpirun has started on this machine.
        decode_processes: processes that decode in place of threads, which share one interpreter;
            0: none. By default, for a GPU and a list of
            10,000 images or more, as many as there would be threads. Pixels are the same.
        decoder: what decodes (:mod:`ltcache.images.decoders`), part of the cache's numerics: as the
            cache has it, else ``pillow``, whose pixels are open_clip's.
        threads: compute threads of a batch on a CPU, part of the plan: as the cache was begun with,
            else one. As many batches are encoded at once as the processors, or
            ``OMP_NUM_THREADS``, allow; features do not depend on how many.
        max_failures: share of failed images above which extraction gives up, judged from 1,000
            images on; every failed row stays listed with its reason.
        retry_failed: encode images again that failed before.
        rehash: read images again that the cache knows by name, and encode those that changed.
        splitting: how to divide the images of a source without splits, once they are encoded. Later
            calls keep every image in its split and assign new ones.
        part: ``I/N``: this process is the I-th of N, from 1, that extract into one cache, and takes
            that part of the images first, then what is left of the others' parts; by default what
            torchrun, srun, mpirun, a job array or an indexed Job say. It does not change results.
        finish_only: encode no image: finish a cache of which processes have encoded every part, and
            refuse one that lacks some. The images need not be at hand.
        progress: called after every shard.

    Raises:
        LtcacheError: unreadable source, missing images, an unusable encoder, too many failures.
        IdentityError: ``out`` holds something else (status 4); names every differing field.

    Example:
        A folder ``photos`` with ``train``, ``val`` and ``test``, in each a folder for every class:

        >>> report = extract("photos", "cache")
        >>> report.encoded, report.failed
        (32, 0)
        >>> extract("photos", "cache").encoded  # nothing is encoded twice
        0
    """
    started = time.perf_counter()
    out = require_local(out)
    mine = part_of_work(part)
    if isinstance(source, Manifest):
        manifest = source
    else:
        manifest = read_once(source, mine, ListReading(root))
    require_choice(views or (), batch_size, shard_size, decode_processes)
    require_replaceable(out, PlaceKind.CACHE)
    begun, finished = read_plan(out), index_path(out).exists()
    unfinished = None if finished else begun
    if finished:
        manifest = keep_splits(Cache(out, read_index(out, check_sizes=False)), manifest)
    if splitting is not None:
        splitting = checked_recipe(splitting, manifest, manifest.name)
    decoder = decoder_as_begun(decoder, begun, out)
    if encoder is not None:
        precision = encoder.numerics()["precision"]
    precision = precision_as_begun(precision, begun, device, out)
    if encoder is None:
        from ltcache.encoder import EncoderChoice, load_chosen, own_device

        own = own_device(device, mine.local_rank)
        encoder = load_chosen(EncoderChoice(model, pretrained, activation, own, precision))
    with threads_as_begun(threads, begun, encoder.device.type), activations_kept():
        plan = Plan(
            encoder=encoder.identity,
            numerics={**encoder.numerics(), "decoder": decoder},
            manifest=manifest.identity(),
            views=(CENTER,),
            fields=first_fields(encoder, fields),
            items=0,
            shard_size=shard_size
            or (unfinished.shard_size if unfinished else shard_size_for(len(manifest))),
            micro_batch=batch_size
            or (unfinished.micro_batch if unfinished else _batch_size(encoder)),
        )
        own_processors = max(1, usable_processors() // mine.local_size)
        several = _decode_processes(
            decode_processes, 0 if workers else own_processors, encoder, len(manifest), decoder
        )
        require_decoder(decoder, encoder.device.type, several)
        request = ExtractRequest(
            out=out,
            manifest=manifest,
            encoder=encoder,
            plan=plan,
            views=views,
            view_seed=view_seed,
            fields=fields,
            retry_failed=retry_failed,
            rehash=rehash,
            workers=workers or own_processors,
            part=mine,
            max_failures=max_failures,
            progress=progress,
            started=started,
            splitting=splitting,
            decode_processes=several,
            finish_only=finish_only,
        )
        report = begin_or_grow(request)
    keep_root(out, manifest.root)
    return report


def shard_size_for(images: int) -> int:
    """Return how many images a shard of a new cache has by default.

    1,024, doubled while there would be more than 4,096 shards, each two files to open; 8,192 at
    most, for the features of two shards are in memory.
    """
    size = SHARD_SIZE
    while size < _LARGEST_SHARD and images > size * _MANY_SHARDS:
        size *= 2
    return size


def _batch_size(encoder: Encoder) -> int:
    """On a CPU few: larger batches are hardly faster, and their activations take more memory."""
    return 256 if str(encoder.device).startswith("cuda") else 16


def _decode_processes(
    asked: int | None, processors: int, encoder: Encoder, images: int, decoder: str
) -> int:
    """Return how many processes decode: as asked, else for a GPU that threads may not feed."""
    if asked is not None:
        return asked
    worth_it = images >= _WORTH_PROCESSES and processors >= _MORE_THAN_THREADS
    on_host = encoder.device.type == "cuda" and decoder != NVJPEG
    return processors if on_host and worth_it else 0
