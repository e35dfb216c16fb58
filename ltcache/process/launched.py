"""Which of several processes this one is, as the launcher that started them says it.

torchrun (and accelerate), srun and mpirun start one command several times and number the processes
in the environment. A Slurm job array and an indexed Job of Kubernetes number whole jobs, in each of
which one of the three may have started several processes. A program of one process learns nothing
from either, so that what is asked here is safe to ask anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ltcache.errors import UsageError

TORCHRUN, AUTO = "torchrun", "auto"

_LAUNCHERS = {
    TORCHRUN: ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", ""),  # srun binds processors itself
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
}
"""Launcher -> variables with rank and size, among all and on this machine; the first one that is
there counts: under srun, torchrun starts processes of its own."""


_OF_ARRAYS = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
"""Variables that number a whole job among others."""


@dataclass(frozen=True)
class LaunchedProcess:
    """One of several processes that were started with the same command.

    Attributes:
        rank: its number, from 0.
        size: how many there are; None: the launcher does not say.
        local_rank, local_size: the same among the processes of this machine.
        launcher: what started them; "" for one process alone.
    """

    rank: int = 0
    size: int | None = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = ""

    @property
    def first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0


def launched_process(environ: Mapping[str, str] | None = None) -> LaunchedProcess:
    """Return which process this is among those that torchrun, srun or mpirun has started.

    Raises:
        UsageError: a variable of the launcher is no number, or its rank is not below its size.
    """
    found = os.environ if environ is None else environ
    for launcher, (rank, size, local_rank, local_size) in _LAUNCHERS.items():
        if rank not in found or size not in found or _in_batch_script(launcher, found):
            continue
        own, everyone = _number(found, rank), _number(found, size)
        if not 0 <= own < everyone:
            raise UsageError(
                f"{rank}={own} and {size}={everyone} in the environment: ranks go from 0 "
                f"to one below the size. Unset both where {launcher} has not started this process"
            )
        return LaunchedProcess(
            own,
            everyone,
            local_rank=_number(found, local_rank, own),
            local_size=_number(found, local_size, 1),
            launcher=launcher,
        )
    return LaunchedProcess()


def part_of_work(
    part: str | None = None, environ: Mapping[str, str] | None = None
) -> LaunchedProcess:
    """Return which part of work that can be divided falls to this process.

    Args:
        part: ``I/N``, the I-th of N parts, counted from 1 as in ``split -n`` of GNU and in the
            shards of test runners; None: as launchers, job arrays and indexed Jobs say.

    Raises:
        UsageError: no such part, or a variable of the environment cannot be meant.
    """
    if part is not None:
        return _named_part(part)
    found = os.environ if environ is None else environ
    process = launched_process(found)
    job, jobs = _job_of_array(found)
    if process.size is None or jobs == 1:
        return process
    size = None if jobs is None else jobs * process.size
    return replace(process, rank=job * process.size + process.rank, size=size)


def part_to_merge(part: str, environ: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return which part of work this process does that is merged when all parts are there.

    Args:
        part: ``I/N``, or ``auto``: as launchers, job arrays and indexed Jobs say.

    Returns:
        Its number, from 0, and how many parts there are.

    Raises:
        UsageError: no such part, or nothing says how many there are.
    """
    process = part_of_work(None if part == AUTO else part, environ)
    if process.size is None:
        raise UsageError(
            f"--part {AUTO}: the environment says that this process is number {process.rank}, and "
            f"not of how many; give --part {process.rank + 1}/N"
        )
    return process.rank, process.size


def environment_of_share(
    whole: LaunchedProcess, number: int, count: int, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of one of several processes that do the part of this one together.

    It says what torchrun would say, whatever has started this process.

    Args:
        whole: the part of this process. number: of the process, from 0. count: how many there are.

    Raises:
        UsageError: a launcher has started a process for each share already.
    """
    if whole.local_size > 1 or (whole.launcher == "srun" and whole.local_rank > 0):
        raise UsageError(
            f"{whole.launcher} has started several processes on this machine, which share the work "
            "already: let it start one on each machine, or let each do its own part"
        )
    found = dict(os.environ if environ is None else environ)
    rank, size = number, count
    if whole.size is not None:  # else the process adds the number of its job, which stays there
        rank, size = whole.rank * count + number, whole.size * count
        for name in _OF_ARRAYS:
            found.pop(name, None)
    names = _LAUNCHERS[TORCHRUN]
    return found | dict(zip(names, map(str, (rank, size, number, count)), strict=True))


def _named_part(part: str) -> LaunchedProcess:
    number, slash, parts = part.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal()):
        raise UsageError(f"part {part!r} is not of the form I/N, such as 1/4 for the first of four")
    if not 1 <= int(number) <= int(parts):
        raise UsageError(f"part {part!r}: parts are counted from 1, so that I goes from 1 to N")
    rank = int(number) - 1
    return LaunchedProcess(rank, int(parts), local_rank=rank, launcher="--part")


def _job_of_array(environ: Mapping[str, str]) -> tuple[int, int | None]:
    """Return the number of this job among those of an array, and how many there are."""
    if "SLURM_ARRAY_TASK_ID" in environ and "SLURM_ARRAY_TASK_COUNT" in environ:
        jobs = max(1, _number(environ, "SLURM_ARRAY_TASK_COUNT"))
        first = _number(environ, "SLURM_ARRAY_TASK_MIN", 0)
        step = max(1, _number(environ, "SLURM_ARRAY_TASK_STEP", 1))
        # a list such as --array=1,5,9 has no regular steps; two of the same rank do no harm
        return (_number(environ, "SLURM_ARRAY_TASK_ID") - first) // step % jobs, jobs
    if "JOB_COMPLETION_INDEX" in environ:  # Kubernetes tells no process how many there are
        return _number(environ, "JOB_COMPLETION_INDEX"), None
    return 0, 1


def _in_batch_script(launcher: str, environ: Mapping[str, str]) -> bool:
    """Whether sbatch has set srun's variables for a script that runs once, whatever its tasks."""
    return launcher == "srun" and "SLURM_JOB_ID" in environ and "SLURM_STEP_ID" not in environ


def _number(environ: Mapping[str, str], name: str, absent: int | None = None) -> int:
    """Return a variable's value."""
    text = environ.get(name)
    if text is None and absent is not None:
        return absent
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(
            f"{name}={text} in the environment is no number: set it as the launcher of this "
            "process would, or unset it"
        ) from None
