"""What is refused before anything is encoded, and when failures are too many to go on."""

from __future__ import annotations

from collections.abc import Sequence

from ltcache.errors import LtcacheError, UsageError
from ltcache.images import parse_views
from ltcache.manifest import Manifest, missing_files

_GRACE = 1000  # failures are judged as a rate from this many items on


def require_choice(
    views: Sequence[str],
    batch_size: int | None,
    shard_size: int | None,
    decode_processes: int | None,
) -> None:
    parse_views(views)
    if decode_processes is not None and decode_processes < 0:
        raise UsageError(f"decode_processes must be at least 0, not {decode_processes}")
    for name, value in (("batch size", batch_size), ("shard size", shard_size)):
        if value is not None and value < 1:
            raise UsageError(f"the {name} must be at least 1, not {value}")


def require_files(manifest: Manifest, max_failures: float) -> None:
    missing = missing_files(manifest)
    if not missing.count:
        return
    rows = manifest.rows.num_rows
    if too_many(missing.count, rows, rows, max_failures):
        raise LtcacheError(
            f"{missing.count} of {rows} images are missing below {manifest.root}, for example "
            f"{', '.join(missing.first)}. {missing.hint or 'Is --root right?'}"
        )


def too_many(failed: int, seen: int, total: int, max_failures: float) -> bool:
    """Judge failures: all is too many, and from 1,000 items on, more than the share allowed."""
    return 0 < failed == total or (seen >= _GRACE and failed > max_failures * seen)
