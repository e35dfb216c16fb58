"""How many processors this process may use, which in a container is fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_processors() -> int:
    """Return the processors that this process may run on, at least one: those of its affinity, and
    no more than the quota of its control group pays for (rounded up)."""
    if hasattr(os, "sched_getaffinity"):  # not on every platform
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = processor_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def processor_quota(root: Path | None = None) -> float | None:
    """Return the processors' worth of time that the control group grants, None: no limit is known.

    Args:
        root: of the control groups' files, as a container sees its own.
    """
    root = root or CGROUPS
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (_read(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    try:
        granted = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such files
        return None
    return granted if granted > 0 else None  # -1 is no limit


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
