"""What a training reports, also to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltcache.errors import UsageError
from ltcache.extras import how_to_install
from ltcache.metrics import EpochRecord

Report = Callable[[EpochRecord], None]


@contextmanager
def tracked(progress: Report | None, folder: str | Path | None) -> Iterator[Report]:
    """Yield what to call with each record: it passes the record on, and logs its numbers.

    Args:
        progress: who else wants the records, or None. folder: of the logs, or None.

    Raises:
        UsageError: logs are wanted and tensorboard is not installed.
    """
    if folder is None:
        yield progress or (lambda record: None)
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(f"TensorBoard logs need tensorboard: {how_to_install('track')}") from None
    writer = SummaryWriter(str(folder))

    def report(record: EpochRecord) -> None:
        _log(writer, record)
        if progress is not None:
            progress(record)

    try:
        yield report
    finally:
        writer.close()


def _log(writer: Any, record: EpochRecord) -> None:
    """Log a record within an epoch by its step, one of an epoch by the epoch."""
    within = "step" in record
    number = record["epoch"]
    if within:
        number = (record["epoch"] - 1) * record["steps"] + record["step"]
    for name in ("loss", "lr", "images_per_second", "val_overall", "val_mean_per_class", "val_nll"):
        if name in record:
            writer.add_scalar(f"{'step' if within else 'epoch'}/{name}", record[name], number)
