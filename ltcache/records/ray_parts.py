"""Parts of one piece of work by actors of a Ray cluster: what ``--part`` writes, without files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ltcache.errors import CacheError
from ltcache.process import RESTARTS, ActorRequest, DeadActor, ray_cluster
from ltcache.records.partial import PartialResult, joined_parts

PartMaker = Callable[[str], PartialResult]
"""Does one part, ``I/N``; of the top of a module, with arguments by ``partial``."""


def parts_on_ray(
    make_part: PartMaker,
    what: str,
    request: ActorRequest,
    *,
    gpus: bool = False,
) -> list[PartialResult]:
    """Let each actor do one part; return all in their order.

    The part of an actor that dies is given out again, with the actor that Ray starts in its place.

    Args:
        what: the work is done on, for messages. gpus: whether each actor takes a GPU.

    Raises:
        UsageError: Ray is not installed, or the cluster is too small for the actors.
        IdentityError: what the parts are made of has changed in between.
        CacheError: an actor died again and again. LtcacheError: what an actor has refused.
    """
    with ray_cluster("--part and --merge need nothing else") as cluster:
        share = cluster.share(request.actors, gpus=gpus)
        ended = cluster.parts(partial(_same, make_part), share, modules=request.modules)
    for number, found in enumerate(ended, 1):
        if isinstance(found, DeadActor):
            raise CacheError(
                f"{what}: the actor of part {number}/{len(ended)} died, also when Ray had started "
                f"it again {RESTARTS} times; more --actors take smaller parts. What Ray says of "
                f"it: {found.reason}"
            )
    return joined_parts({Path(f"part {n} of {what}"): found for n, found in enumerate(ended, 1)})


def _same(make_part: PartMaker) -> PartMaker:
    return make_part
