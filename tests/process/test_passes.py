"""Several passes at once on a CPU: how many, with what threads, and what becomes of an error."""

from __future__ import annotations

import threading

import pytest
import torch

from ltcache.process import ConcurrentPasses, passes, passes_at_once, threads_of_passes


@pytest.mark.parametrize(
    ("processors", "threads", "allowed", "ranks", "expected"),
    [
        (8, 1, "", 1, 8),
        (8, 2, "", 1, 4),
        (8, 16, "", 1, 1),  # never none
        (8, 1, "3", 1, 3),
        (8, 1, "3,2", 1, 8),  # a list for nested regions says nothing of one number
        (8, 1, "", 4, 2),
        (64, 1, "", 1, 16),  # each holds the activations of a batch
    ],
)
def test_passes_have_the_processors_together(
    monkeypatch: pytest.MonkeyPatch,
    processors: int, threads: int, allowed: str, ranks: int, expected: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(passes, "usable_processors", lambda: processors)
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 4), ("LOCAL_WORLD_SIZE", 4)):
        if ranks > 1:
            monkeypatch.setenv(name, str(value))
    with threads_of_passes(threads):
        assert passes_at_once("cpu") == expected
        assert passes_at_once("cuda") == passes_at_once("mps") == 1


def test_threads_are_as_before_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads_of_passes(before + 2):
        assert torch.get_num_threads() == before + 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
    with threads_of_passes(None):
        assert torch.get_num_threads() == before


def test_one_pass_runs_in_the_thread_that_asks_and_several_beside_it() -> None:
    with ConcurrentPasses(1) as alone:
        assert alone.submit(threading.get_ident).result() == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            alone.submit(divmod, 1, 0)
    meeting = threading.Barrier(3)  # all three must run at once to get over it
    with ConcurrentPasses(3) as several:
        pending = [several.submit(meeting.wait, 60) for _ in range(3)]
        assert sorted(found.result() for found in pending) == [0, 1, 2]
        broken = several.submit(divmod, 1, 0)
        with pytest.raises(ZeroDivisionError):
            broken.result()


def test_passes_that_have_not_begun_are_dropped_at_the_end() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait()

    with ConcurrentPasses(2) as several:
        first = [several.submit(wait) for _ in range(2)]
        late = several.submit(threading.get_ident)
        begun.wait()
        threading.Timer(0.05, go_on.set).start()
    assert all(found.done() for found in first)
    assert late.cancelled()
