"""Which of several processes this one is, from the environments that launchers make."""

from __future__ import annotations

import pytest

from ltcache.errors import UsageError
from ltcache.process import (
    LaunchedProcess,
    environment_of_share,
    launched_process,
    part_of_work,
    part_to_merge,
)

SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8"}
ALONE = SRUN | {"SLURM_LOCALID": "0"}
SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
TORCHRUN = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "9",
    "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "5",
}  # fmt: skip
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0, 1, "")),
        (TORCHRUN, (9, 16, 1, 8, "torchrun")),
        (SRUN | {"SLURM_LOCALID": "1"}, (5, 8, 1, 1, "srun")),
        (SRUN | TORCHRUN, (9, 16, 1, 8, "torchrun")),
        (MPIRUN, (3, 4, 1, 2, "mpirun")),
        (SCRIPT, (0, 1, 0, 1, "")),  # what a script of sbatch runs, it runs once
        (ARRAY, (0, 1, 0, 1, "")),  # a job of an array is no process among others
    ],
)
def test_processes_that_were_started_together(environ: dict[str, str], expected: tuple) -> None:
    assert launched_process(environ) == LaunchedProcess(*expected)


@pytest.mark.parametrize(
    ("environ", "rank", "size"),
    [
        ({}, 0, 1),
        (TORCHRUN, 9, 16),
        (SCRIPT | ARRAY, 3, 5),
        (SRUN | ARRAY, 3 * 8 + 5, 5 * 8),
        ({"JOB_COMPLETION_INDEX": "6"}, 6, None),
        ({"JOB_COMPLETION_INDEX": "6"} | TORCHRUN, 6 * 16 + 9, None),
    ],
)
def test_parts_of_work(environ: dict[str, str], rank: int, size: int | None) -> None:
    part = part_of_work(environ=environ)
    assert (part.rank, part.size) == (rank, size)
    assert part_to_merge("2/9", environ) == (1, 9)
    if size is not None:
        assert part_to_merge("auto", environ) == (rank, size)
        return
    with pytest.raises(UsageError, match=f"give --part {rank + 1}/N"):
        part_to_merge("auto", environ)


def test_a_named_part_counts_from_one_and_goes_before_the_environment() -> None:
    parts = [part_of_work(f"{number}/3", TORCHRUN) for number in (1, 2, 3)]
    assert [(part.rank, part.size, part.local_rank) for part in parts] == [
        (0, 3, 0), (1, 3, 1), (2, 3, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["0/4", "5/4", "1/0", "-1/4", "1", "a/b", "1/4/2", "1.5/4", ""])
def test_parts_that_there_are_not_are_refused(part: str) -> None:
    with pytest.raises(UsageError, match=r"counted from 1|of the form I/N"):
        part_of_work(part, {})


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"RANK": "16"}, "RANK=16 and WORLD_SIZE=16"),
        ({"RANK": "-1"}, "RANK=-1"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many .* no number"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK= .* no number"),
    ],
)
def test_environments_that_cannot_be_meant_are_refused(changed: dict[str, str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        launched_process(TORCHRUN | changed)


@pytest.mark.parametrize(
    ("environ", "rank", "size"),
    [
        ({}, 1, 4),
        (ALONE, 5 * 4 + 1, 8 * 4),
        (ARRAY, 3 * 4 + 1, 5 * 4),
        (ALONE | ARRAY, (3 * 8 + 5) * 4 + 1, 5 * 8 * 4),
        ({"JOB_COMPLETION_INDEX": "6"}, 6 * 4 + 1, None),
    ],
)
def test_a_process_divides_its_part_among_others(
    environ: dict[str, str], rank: int, size: int | None
) -> None:
    whole = part_of_work(environ=environ)
    found = part_of_work(environ=environment_of_share(whole, 1, 4, environ))
    assert (found.rank, found.size, found.local_rank, found.local_size) == (rank, size, 1, 4)


@pytest.mark.parametrize("environ", [TORCHRUN, MPIRUN, SRUN | {"SLURM_LOCALID": "2"}])
def test_one_of_several_on_a_machine_divides_nothing(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="several processes on this machine"):
        environment_of_share(part_of_work(environ=environ), 0, 2, environ)
