"""Run as a process: copies a cache and dies on the way, with a file that is not whole."""

from __future__ import annotations

import os
import signal
import sys

from ltcache.cache import copying


def killed_on_the_way(source: str, target: str, files: int) -> None:
    """Copy, and die when so many files have arrived and the next one but for its last byte."""
    whole, left = copying.bring, [files]

    def bring(origin: copying.FilePlace, goal: copying.FilePlace, name: str, sha256: str) -> bool:
        left[0] -= 1
        if left[0] >= 0:
            return whole(origin, goal, name, sha256)
        with goal.receiving(name) as path:
            path.write_bytes((origin.read(name) or b"")[:-1])
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")

    copying._TOGETHER, copying.bring = 1, bring
    copying.copy_cache(source, target)


if __name__ == "__main__":
    killed_on_the_way(sys.argv[1], sys.argv[2], int(sys.argv[3]))
