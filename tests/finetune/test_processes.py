"""Several processes, as torchrun starts them, tune as one process does."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcache.errors import UsageError
from ltcache.finetune import FineTuned, finetune, open_fine_tuned
from ltcache.finetune.processes import ProcessRanks, processes
from ltcache.manifest import Manifest
from tests.finetune.pictures import read_pictures, write_pictures

OVERRIDES = {"optimisation.epochs": 2, "optimisation.batch": 8, "optimisation.lr": 1e-2}


def one_of_two(
    rank: int, port: int, source: Manifest, model: str, out: Path, method: str, pasted: float
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    told: list[Any] = []
    tuned = finetune(
        source, method, out, model=model, overrides={**OVERRIDES, "composites": pasted},
        device="cpu", workers=0, micro_batch=3, progress=told.append,
    )  # fmt: skip
    assert bool(told) == (rank == 0)
    assert tuned.record.cost.ranks == 2
    assert not torch.distributed.is_initialized()


def by_two(source: Manifest, model: str, out: Path, method: str, pasted: float = 0) -> FineTuned:
    """Tune in two processes and return what they have made."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = (port, source, model, out, method, pasted)
    torch.multiprocessing.start_processes(one_of_two, arguments, 2, start_method="fork")
    return open_fine_tuned(out, device="cpu")


@pytest.mark.parametrize(("method", "pasted"), [("ballad", 0.0), ("lift", 1.0)])
def test_two_processes_tune_as_one(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path, method: str, pasted: float
) -> None:
    model = towers["vit"]
    two = by_two(pictures, model, tmp_path / "two", method, pasted)
    one = finetune(
        pictures, method, tmp_path / "one", model=model,
        overrides={**OVERRIDES, "composites": pasted}, device="cpu", workers=0,
    )  # fmt: skip
    for name in ("loss", "val_nll"):
        values = [[record[name] for record in tuned.history] for tuned in (two, one)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    states = [tuned.encoder.model.state_dict() for tuned in (two, one)]
    for name, value in states[1].items():
        torch.testing.assert_close(states[0][name], value, rtol=1e-2, atol=1e-4)


def test_what_any_process_could_not_read_is_named(towers: dict[str, str], tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "images")
    foxes = sorted((folder / "red fox").iterdir())
    for path in (lost := [*foxes[:2], *foxes[-4:]]):  # two to validate on, four to train on
        path.write_bytes(b"")
    two = by_two(read_pictures(folder), towers["vit"], tmp_path / "two", "bias")
    assert sorted(two.record.failures) == [path.relative_to(folder).as_posix() for path in lost]


@pytest.mark.parametrize(
    ("launcher", "environ"),
    [
        ("srun", {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}),
        ("mpirun", {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}),
    ],
)
def test_processes_that_cannot_meet_are_refused(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    launcher: str, environ: dict[str, str],
) -> None:  # fmt: skip
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"{launcher} has started this command 4 times.*torchrun"):
        finetune(pictures, "ballad", tmp_path / "out", model=towers["vit"], device="cpu")
    assert not list(tmp_path.iterdir())


def test_data_parallelism_leaves_labels_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def parallel(
        step: torch.nn.Module, device_ids: Any = None, broadcast_buffers: bool = True
    ) -> torch.nn.Module:
        given.update(device_ids=device_ids, broadcast_buffers=broadcast_buffers)
        return step

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", parallel)
    ProcessRanks(torch.device("cuda", 1), 1, 2).wrapped(torch.nn.Linear(2, 2))
    assert given == {"device_ids": None, "broadcast_buffers": False}


@pytest.mark.parametrize(("backend", "expected"), [("nccl", [1]), ("gloo", None)])
def test_processes_wait_for_each_other_on_their_own_gpu(
    monkeypatch: pytest.MonkeyPatch, backend: str, expected: list[int] | None
) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.distributed, "barrier", lambda device_ids: waited.append(device_ids))
    ProcessRanks(torch.device("cuda", 1), 5, 8).wait()
    assert waited == [expected]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("cpu") as place:
        assert (place.rank, place.ranks, place.first) == (0, 1, True)
        step = torch.nn.Linear(2, 2)
        assert place.wrapped(step) is step
        place.wait()
    assert not torch.distributed.is_initialized()
