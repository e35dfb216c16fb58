"""Extraction by actors of a Ray cluster: Ray starts them, and starts them again where they die.

Each does what a process that was started by hand does (:mod:`ltcache.extract.order`): its own part
of the shards first, then what others have left. Features go to the cache's folder, which all
machines see under the same path; through Ray go the list of images and the reports alone.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache.cache import read_plan
from ltcache.errors import CacheError, LtcacheError, UsageError
from ltcache.extract.extraction import extract
from ltcache.extract.report import ExtractReport, joined_report
from ltcache.extras import how_to_install
from ltcache.manifest import Manifest
from ltcache.records import require_local

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, EncoderChoice

RESTARTS = 3
"""How often Ray starts an actor again that has died; one that dies always is at fault itself."""


@dataclass(frozen=True)
class ActorShare:
    """What each actor has of the cluster.

    Args:
        actors: how many there are. processors, gpus: of each.
    """

    actors: int
    processors: int
    gpus: int


class RayExtractor:
    """What runs in an actor: an encoder that is loaded once, and the extraction of a part.

    Args:
        choice: which encoder. place: the working directory. modules: of the user, imported first.
    """

    def __init__(self, choice: EncoderChoice, place: str, modules: Sequence[str]) -> None:
        self._choice, self._place, self._modules = choice, place, modules

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded when it is first asked for: what fails here is an actor's error,
        and what fails in a constructor is to Ray an actor that has died."""
        from ltcache.encoder import load_chosen

        os.chdir(self._place)
        sys.path.insert(0, self._place)
        for module in self._modules:
            importlib.import_module(module)
        return load_chosen(self._choice)

    def extract(
        self, manifest: Manifest, out: Path, part: str, options: Mapping[str, Any]
    ) -> ExtractReport:
        """Extract as :func:`ltcache.extract.extract` does."""
        return extract(manifest, out, part=part, encoder=self.encoder, **options)


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
        threads: compute threads of each actor on a CPU; by default as the cache was begun, or its
            share of the processors.
        modules: of the user, which each actor imports first.
        waiting: called again and again until all have ended.
        options: of :func:`ltcache.extract.extract`.

    Raises:
        UsageError: Ray is not installed, the cluster is too small for the actors, or an address
            in place of a folder.
        LtcacheError: what the extraction of an actor has refused.
    """
    started = time.perf_counter()
    ray, out = _ray(), require_local(out).absolute()
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, logging_level="warning", log_to_driver=True)
    try:
        share = _share(ray.cluster_resources(), len(ray.nodes()), actors)
        if threads is None and read_plan(out) is None:
            threads = share.processors
        options = {
            "threads": threads,
            **options,
            "workers": options.get("workers") or share.processors,
        }
        kind = _actors(ray, share)
        crew = [kind.remote(choice, os.getcwd(), modules) for _ in range(share.actors)]
        rows = ray.put(manifest)
        work = [
            actor.extract.remote(rows, out, f"{number}/{share.actors}", options)
            for number, actor in enumerate(crew, 1)
        ]
        return joined_report(_finished(ray, work, out, waiting), started)
    finally:
        if mine:
            ray.shutdown()


def _ray() -> Any:
    """Return the module."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UsageError(
            f"--engine ray needs Ray, which is not installed: {how_to_install('ray')}; "
            "--gpus and --processes need nothing else"
        ) from None


def _share(resources: Mapping[str, float], machines: int, actors: int | None) -> ActorShare:
    """Return how actors divide a cluster.

    Raises:
        UsageError: there are more actors than GPUs, or than processors where there are no GPUs.
    """
    processors, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    count = actors or gpus or machines
    most, what = (gpus, "GPUs") if gpus else (processors, "processors")
    if count > most:
        raise UsageError(f"--actors {count}: the Ray cluster has {most} {what}")
    return ActorShare(count, max(1, processors // count), 1 if gpus else 0)


def _actors(ray: Any, share: ActorShare) -> Any:
    """Return the class of the actors, as Ray starts them."""
    return ray.remote(
        num_cpus=share.processors,
        num_gpus=share.gpus,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )(RayExtractor)


def _finished(
    ray: Any, work: list[Any], out: Path, waiting: Callable[[], None] | None
) -> list[ExtractReport]:
    """Return the reports of the actors that lived, of which each has waited for the whole cache.

    Raises:
        LtcacheError: what an actor has refused. CacheError: all died, again and again.
    """
    reports, left, death = [], work, None
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=0.5)
        if waiting is not None:
            waiting()
        for one in done:
            try:
                reports.append(ray.get(one))
            except ray.exceptions.RayTaskError as error:
                raise _as_it_was(error) from None
            except ray.exceptions.RayActorError as error:
                death = error
    if not reports:
        raise CacheError(
            f"{out}: all {len(work)} actors died, also when Ray had started them again. The same "
            f"command goes on where they stopped. What Ray says of one: {death}"
        )
    return reports


def _as_it_was(error: Any) -> BaseException:
    """Return the error of an actor as it was raised there."""
    cause: BaseException = error.cause
    return cause if isinstance(cause, (LtcacheError, OSError)) else error
