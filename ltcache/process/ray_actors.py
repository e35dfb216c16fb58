"""Actors of a Ray cluster: Ray places them, starts them, and starts them again where they die.

Nothing here knows what they do. Each is given a function once, and calls it with what it is sent;
what Ray has to decide, it decides.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ltcache.errors import LtcacheError, UsageError
from ltcache.extras import how_to_install

RESTARTS = 3
"""How often Ray starts an actor again that has died; one that dies always is at fault itself."""

WorkMaker = Callable[[], Callable[..., Any]]
"""Makes in an actor what it does there; of the top of a module, with arguments by ``partial``."""


@dataclass(frozen=True)
class ActorShare:
    """What each actor has of the cluster.

    Args:
        actors: how many there are. processors, gpus: of each.
    """

    actors: int
    processors: int
    gpus: int


@dataclass(frozen=True)
class ActorRequest:
    """What a user asks of a cluster.

    Args:
        actors: how many; None: one for each GPU where they take GPUs, or for each machine.
        modules: of the user, which each actor imports first.
    """

    actors: int | None = None
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeadActor:
    """What stands in place of a result whose actor died.

    Args:
        reason: what Ray says of it.
    """

    reason: str


class RayActor:
    """What runs in an actor: the user's modules, then one function that is made once.

    Args:
        made_by: a pickled :data:`WorkMaker`, for it may name what only the user's modules define.
        place: the working directory. modules: of the user, imported first.
    """

    def __init__(self, made_by: bytes, place: str, modules: Sequence[str]) -> None:
        self._made_by, self._place, self._modules = made_by, place, modules

    @cached_property
    def _work(self) -> Callable[..., Any]:
        """The function, made when it is first needed: what fails here is an error of the actor,
        and what fails in a constructor is to Ray an actor that has died."""
        os.chdir(self._place)
        sys.path.insert(0, self._place)
        for module in self._modules:
            importlib.import_module(module)
        made: Callable[..., Any] = pickle.loads(self._made_by)()
        return made

    def do(self, *arguments: Any) -> Any:
        """Call the function."""
        return self._work(*arguments)


@dataclass(frozen=True, eq=False)
class RayCluster:
    """A cluster that this process is connected to.

    Args:
        ray: the module.
    """

    ray: Any

    def share(
        self, actors: int | None, *, gpus: bool = True, each_processor: bool = False
    ) -> ActorShare:
        """Return how actors divide the cluster.

        Args:
            actors: how many; None: one for each GPU, or for each machine.
            gpus: whether each takes a GPU where the cluster has some.
            each_processor: without GPUs each takes one processor, and there is one for each.

        Raises:
            UsageError: there are more than GPUs, or than processors where they take no GPUs.
        """
        resources = self.ray.cluster_resources()
        machines = len(self.ray.nodes())
        return _share(resources, machines, actors, gpus=gpus, each_processor=each_processor)

    def starter(
        self, make: WorkMaker, share: ActorShare, modules: Sequence[str] = (), restarts: int = 0
    ) -> Callable[[], Any]:
        """Return what starts an actor.

        Args:
            restarts: how often Ray starts one again that has died, with the call that it was at.
        """
        kind = self.ray.remote(
            num_cpus=share.processors,
            num_gpus=share.gpus,
            max_restarts=restarts,
            max_task_retries=restarts,
        )(RayActor)
        made_by, place = pickle.dumps(make), os.getcwd()
        return lambda: kind.remote(made_by, place, tuple(modules))

    def parts(
        self,
        make: WorkMaker,
        share: ActorShare,
        *shared: Any,
        modules: Sequence[str] = (),
        waiting: Callable[[], None] | None = None,
    ) -> list[Any]:
        """Let each actor do one part of some work; one that dies is started again with its part.

        Args:
            make: of what takes ``shared``, which is sent once, and a part, ``I/N``.
            modules, waiting: see :meth:`starter` and :meth:`outcomes`.
        """
        start = self.starter(make, share, modules, RESTARTS)
        sent, crew = [self.ray.put(one) for one in shared], [start() for _ in range(share.actors)]
        parts = (f"{number}/{share.actors}" for number in range(1, share.actors + 1))
        calls = [actor.do.remote(*sent, part) for actor, part in zip(crew, parts, strict=True)]
        return self.outcomes(calls, waiting)

    def outcomes(
        self, calls: Sequence[Any], waiting: Callable[[], None] | None = None
    ) -> list[Any]:
        """Return what calls gave, in their order; :class:`DeadActor` where none did.

        Args:
            waiting: called again and again until all have ended.

        Raises:
            LtcacheError, OSError: what an actor has refused, as it was raised there.
        """
        found: dict[Any, Any] = {}
        left = list(calls)
        while left:
            done, left = self.ray.wait(left, num_returns=1, timeout=0.5)
            if waiting is not None:
                waiting()
            found |= {call: self.outcome(call) for call in done}
        return [found[call] for call in calls]

    def outcome(self, call: Any) -> Any:
        """Return what a call gave once it has ended, or :class:`DeadActor`."""
        try:
            return self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            raise _as_it_was(error) from None
        except self.ray.exceptions.RayActorError as error:
            return DeadActor(str(error))


@contextmanager
def ray_cluster(instead: str) -> Iterator[RayCluster]:
    """Connect to the cluster that ``RAY_ADDRESS`` names or that ``ray start`` has started on this
    machine; where there is none, this machine is one until the end.

    Args:
        instead: what to type where Ray is not installed, a clause that ends the message.

    Raises:
        UsageError: Ray is not installed.
    """
    ray = _ray(instead)
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, logging_level="warning", log_to_driver=True)
    try:
        yield RayCluster(ray)
    finally:
        if mine:
            ray.shutdown()


def _ray(instead: str) -> Any:
    """Return the module."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UsageError(
            f"--engine ray needs Ray, which is not installed: {how_to_install('ray')}; {instead}"
        ) from None


def _share(
    resources: Mapping[str, float],
    machines: int,
    actors: int | None,
    *,
    gpus: bool = True,
    each_processor: bool = False,
) -> ActorShare:
    """Return how actors divide so many GPUs and processors."""
    processors, there = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)) if gpus else 0
    count = actors or there or (processors if each_processor else machines)
    most, what = (there, "GPUs") if there else (processors, "processors")
    if count > most:
        raise UsageError(f"--actors {count}: the Ray cluster has {most} {what}")
    if each_processor and not there:
        return ActorShare(count, 1, 0)
    return ActorShare(count, max(1, processors // count), 1 if there else 0)


def _as_it_was(error: Any) -> BaseException:
    """Return the error of an actor as it was raised there."""
    cause: BaseException = error.cause
    return cause if isinstance(cause, (LtcacheError, OSError)) else error
