"""Several processes, as torchrun starts them, tune as one process does."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcache.errors import UsageError
from ltcache.finetune import finetune, open_fine_tuned
from ltcache.finetune.processes import processes
from ltcache.manifest import Manifest

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


@pytest.mark.parametrize(("method", "pasted"), [("ballad", 0.0), ("lift", 1.0)])
def test_two_processes_tune_as_one(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path, method: str, pasted: float
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    model = towers["vit"]
    arguments = (port, pictures, model, tmp_path / "two", method, pasted)
    torch.multiprocessing.start_processes(one_of_two, arguments, 2, start_method="fork")
    two = open_fine_tuned(tmp_path / "two", device="cpu")
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


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("cpu") as place:
        assert (place.rank, place.ranks, place.first) == (0, 1, True)
        step = torch.nn.Linear(2, 2)
        assert place.wrapped(step) is step
        place.wait()
    assert not torch.distributed.is_initialized()
