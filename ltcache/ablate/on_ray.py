"""The runs of an ablation by actors of a Ray cluster, which read the cache under the same path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache.ablate.ablation import Ablation, ablate
from ltcache.ablate.parallel import LostItem, WorkFunction
from ltcache.process import ActorShare, DeadActor, RayCluster, ray_cluster

if TYPE_CHECKING:
    from ltcache.fit import Memo
    from ltcache.methods import Method


def ablate_on_ray(
    cache: str | Path,
    methods: Sequence[str | Method],
    out: str | Path,
    *,
    device: str = "cpu",
    actors: int | None = None,
    modules: Sequence[str] = (),
    **options: Any,
) -> Ablation:
    """Compare methods as :func:`ltcache.ablate.ablate` does, each run in an actor of a Ray cluster.

    What belongs together goes to one actor, in order; whoever is idle gets the next. An actor that
    dies costs the rest of what it had, which are failed runs with the reason, and another one is
    started. Called again, the runs that are there are taken.

    Args:
        cache, out: places that are the same on all machines.
        device: of each actor: ``cpu``, with one compute thread, or ``cuda``, a GPU of its own.
        actors: how many; by default one for each processor of the cluster, or for each GPU.
        modules: of the user, which each actor imports first.
        options: of :func:`ltcache.ablate.ablate`.

    Raises:
        UsageError: Ray is not installed, or the cluster is too small for the actors.
        LtcacheError: as of :func:`ltcache.ablate.ablate`.
    """
    with ray_cluster("--workers needs nothing else") as cluster:
        share = cluster.share(actors, gpus=device != "cpu", each_processor=True)
        engine = ActorGroups(cluster, share, tuple(modules))
        return ablate(cache, methods, out, device=device, engine=engine, **options)


@dataclass(frozen=True, eq=False)
class ActorGroups:
    """Does groups of work in actors.

    Args:
        share: what each actor has. modules: of the user.
    """

    cluster: RayCluster
    share: ActorShare
    modules: tuple[str, ...] = ()

    def __call__(self, groups: Sequence[Sequence[Any]], work: WorkFunction) -> Iterator[Any]:
        """Yield the result of every item as it comes, or that it was lost with its actor."""
        queue = deque(sorted(groups, key=len, reverse=True))
        start = self.cluster.starter(partial(_worker, work), self.share, self.modules)
        running: dict[Any, tuple[Any, Any]] = {}  # call -> its actor and its item
        for _ in range(min(self.share.actors, len(queue))):
            running |= _give(start(), queue.popleft())
        while running:
            (call,), _ = self.cluster.ray.wait([*running], num_returns=1)
            actor, item = running.pop(call)
            found = self.cluster.outcome(call)
            died = isinstance(found, DeadActor)
            if queue and all(other is not actor for other, _ in running.values()):
                running |= _give(start() if died else actor, queue.popleft())
            yield LostItem(item, _why(found)) if isinstance(found, DeadActor) else found


def _give(actor: Any, group: Sequence[Any]) -> dict[Any, tuple[Any, Any]]:
    """Send a group to an actor, which does its items in order; returns call -> actor and item."""
    begun = [list(group), *([None] * (len(group) - 1))]
    return {
        actor.do.remote(whole, item): (actor, item)
        for whole, item in zip(begun, group, strict=True)
    }


def _why(dead: DeadActor) -> str:
    return f"its actor died ({' '.join(dead.reason.split())}); out of memory? Try fewer --actors"


def _worker(work: WorkFunction) -> Callable[[Sequence[Any] | None, Any], Any]:
    """Return what does an item of the group that its first item begins."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # as in processes: small products gain nothing from more
    memo: Memo = {}

    def do(group: Sequence[Any] | None, item: Any) -> Any:
        nonlocal memo
        if group is not None:
            memo = work.begin(group)
        return work(item, memo)

    return do
