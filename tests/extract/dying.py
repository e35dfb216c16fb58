"""For ``ltcache --import``: of several processes, the second one dies after its second shard.

The others wait with theirs for that, so that its part is left to them however fast each is. One
that is started again in its place lives. With ``SECOND_PROCESS=stays`` none dies, and all wait.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from ltcache.extract import extraction as of_calls
from ltcache.extract import shard as of_shards

commit_shard, part_of_work = of_shards.commit_shard, of_calls.part_of_work
rank, committed = 0, 0


def noted_part(*arguments: Any) -> Any:
    """Return the part of this process, and remember its number."""
    global rank
    part = part_of_work(*arguments)
    rank = part.rank
    return part


def commit_or_die(out: Path, layer: str, *arguments: Any, **options: Any) -> Any:
    """Commit a shard as the process that this one is."""
    global committed
    mark = out.with_name("died")
    if rank == 1:
        record = commit_shard(out, layer, *arguments, **options)
        committed += 1
        if committed == 2 and not mark.exists() and os.environ.get("SECOND_PROCESS") != "stays":
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return record
    deadline = time.monotonic() + 600
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return commit_shard(out, layer, *arguments, **options)


of_shards.commit_shard = commit_or_die  # type: ignore[attr-defined]
of_calls.part_of_work = noted_part  # type: ignore[attr-defined]
