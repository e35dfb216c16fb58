"""Extraction by actors of a Ray cluster (:mod:`ltcache.process.ray_actors`).

Each does what a process that was started by hand does (:mod:`ltcache.extract.order`): its own part
of the shards first, then what others have left. Features go to the cache's folder, which all
machines see under the same path; through Ray go the list of images and the reports alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache.cache import read_plan
from ltcache.errors import CacheError
from ltcache.extract.extraction import extract
from ltcache.extract.report import ExtractReport, joined_report
from ltcache.manifest import Manifest
from ltcache.process import DeadActor, ray_cluster
from ltcache.records import require_local

if TYPE_CHECKING:
    from ltcache.encoder import EncoderChoice


def extract_on_ray(
    manifest: Manifest,
    out: str | Path,
    *,
    choice: EncoderChoice,
    actors: int | None = None,
    threads: int | None = None,
    modules: Sequence[str] = (),
    waiting: Callable[[], None] | None = None,
    **options: Any,
) -> ExtractReport:
    """Encode the images of a manifest into a cache by actors of a Ray cluster.

    The cluster is the one that ``RAY_ADDRESS`` names or that ``ray start`` has started on this
    machine; where there is none, this machine is one until the call ends.

    Args:
        out: the cache, under a path that is the same on all machines.
        choice: which encoder each actor loads.
        actors: how many; by default one for each GPU of the cluster, or for each machine.
        threads: compute threads of a batch on a CPU, see :func:`ltcache.extract.extract`; Ray
            limits an actor's to its share of the processors.
        modules: of the user, which each actor imports first.
        waiting: called again and again until all have ended.
        options: of :func:`ltcache.extract.extract`.

    Raises:
        UsageError: Ray is not installed, the cluster is too small for the actors, or an address
            in place of a folder.
        LtcacheError: what the extraction of an actor has refused.
        CacheError: all actors died, again and again.
    """
    started, out = time.perf_counter(), require_local(out).absolute()
    with ray_cluster("--gpus and --processes need nothing else") as cluster:
        share = cluster.share(actors)
        begun = read_plan(out)
        if choice.precision is None and begun is not None:  # the GPUs are the actors', not here
            choice = replace(choice, precision=begun.numerics["precision"])
        workers = options.get("workers") or share.processors
        options = {"threads": threads, **options, "workers": workers}
        make = partial(_extractor, choice, out, options)
        ended = cluster.parts(make, share, manifest, modules=modules, waiting=waiting)
        return joined_report(_of_the_living(ended, out), started)  # who lives waited for the others


def _extractor(
    choice: EncoderChoice, out: Path, options: Mapping[str, Any]
) -> Callable[[Manifest, str], ExtractReport]:
    """Load the encoder and return what extracts a part with it."""
    from ltcache.encoder import load_chosen

    encoder = load_chosen(choice)

    def extract_part(manifest: Manifest, part: str) -> ExtractReport:
        return extract(manifest, out, part=part, encoder=encoder, **options)

    return extract_part


def _of_the_living(outcomes: Sequence[ExtractReport | DeadActor], out: Path) -> list[ExtractReport]:
    """Return the reports of the actors that lived."""
    reports = [found for found in outcomes if isinstance(found, ExtractReport)]
    if not reports:
        deaths = [found.reason for found in outcomes if isinstance(found, DeadActor)]
        raise CacheError(
            f"{out}: all {len(outcomes)} actors died, also when Ray had started them again. The "
            f"same command goes on where they stopped. What Ray says of one: {deaths[-1]}"
        )
    return reports
