"""A Ray cluster in this process: what ltcache asks of Ray, with actors that die when they are told.

What goes to an actor and comes back is pickled, as between processes. Calls of an actor are done in
their order, when they are waited for.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ltcache.process import RayCluster, ray_cluster

ROOT = Path(__file__).parents[1]


class ActorError(Exception):
    """Stands for ``ray.exceptions.RayActorError``."""


class TaskError(Exception):
    """Stands for ``ray.exceptions.RayTaskError``."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FakeCall:
    """A call of an actor: done or not, with a value or an error."""

    def __init__(self, actor: FakeActor, arguments: Sequence[Any]) -> None:
        self.actor, self.arguments = actor, arguments
        self.ended, self.value, self.error = False, None, None


class FakeActor:
    """An actor whose one method is ``do``."""

    def __init__(self, ray: FakeRay, kind: type, options: dict[str, Any], given: Any) -> None:
        self._ray, self._made_by, self._options = ray, (kind, pickle.dumps(given)), options
        self._starts_left, self._object, self._dead = options["max_restarts"], None, False
        self._calls: list[FakeCall] = []
        self.do = SimpleNamespace(remote=self._submit)

    def _submit(self, *arguments: Any) -> FakeCall:
        self._calls.append(FakeCall(self, pickle.dumps(arguments)))
        return self._calls[-1]

    def carry_out(self, call: FakeCall) -> None:
        """Do all calls up to one."""
        while not call.ended:
            self._do(self._calls.pop(0))

    def _do(self, call: FakeCall) -> None:
        call.ended, arguments = True, pickle.loads(call.arguments)
        tries = self._options["max_task_retries"] + 1
        while tries and not self._dead:
            tries -= 1
            if self._ray.dies(self._number, arguments):
                self._object, self._dead = None, not self._starts_left
                self._starts_left -= 1
                continue
            try:
                call.value = pickle.loads(pickle.dumps(self._started().do(*arguments)))
            except Exception as error:  # as Ray gives back what a task raises
                call.error = TaskError(error)
            return
        call.error = ActorError("The actor died unexpectedly before finishing this task.")

    @property
    def _number(self) -> int:
        return self._ray.crew.index(self) + 1

    def _started(self) -> Any:
        if self._object is None:
            kind, given = self._made_by
            self._object = kind(*pickle.loads(given))
        return self._object


class FakeRay(ModuleType):
    """The module.

    Args:
        processors, gpus: of the cluster, which is one machine.
        dies: asked before each call, with the actor's number from 1 and the arguments.
    """

    def __init__(
        self,
        processors: int = 4,
        gpus: int = 0,
        dies: Callable[[int, Sequence[Any]], bool] = lambda actor, arguments: False,
    ) -> None:
        super().__init__("ray")
        self.resources = {"CPU": float(processors), "GPU": float(gpus)}
        self.dies, self.crew, self.running = dies, [], False
        self.exceptions = SimpleNamespace(RayActorError=ActorError, RayTaskError=TaskError)

    def is_initialized(self) -> bool:
        """Whether it runs."""
        return self.running

    def init(self, **_: Any) -> None:
        """Start it."""
        self.running = True

    def shutdown(self) -> None:
        """End it."""
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        """Return processors and GPUs."""
        return self.resources

    def nodes(self) -> list[None]:
        """Return the machines."""
        return [None]

    def put(self, value: Any) -> Any:
        """Return what stands for a value."""
        return value

    def remote(self, **options: Any) -> Callable[[type], Any]:
        """Return what makes a class one of actors."""

        def of_actors(kind: type) -> Any:
            def start(*given: Any) -> FakeActor:
                self.crew.append(FakeActor(self, kind, options, given))
                return self.crew[-1]

            return SimpleNamespace(remote=start)

        return of_actors

    def wait(self, calls: list[FakeCall], **_: Any) -> tuple[list[FakeCall], list[FakeCall]]:
        """Carry out the last call that has not ended; return it, and the others."""
        done = next((call for call in calls if call.ended), calls[-1])
        done.actor.carry_out(done)
        return [done], [call for call in calls if call is not done]

    def get(self, call: FakeCall) -> Any:
        """Return what a call gave, or raise."""
        call.actor.carry_out(call)
        if call.error is not None:
            raise call.error
        return call.value


@contextmanager
def ray_itself(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """Start Ray on this machine for a test, which is skipped where it is too busy for that."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.chdir(ROOT)  # from where actors import what tests define
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(ray_cluster("no Ray"))
        except Exception as error:
            if "timed out during startup" in str(error):  # it waits for 30 seconds
                pytest.skip("the machine is too busy for Ray to start")
            raise
        yield cluster


def take_for_ray(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """Let ltcache find this module as Ray."""
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(sys, "path", [*sys.path])  # an actor adds its place
    return ray
