"""How this process uses the machine: its processors, its memory, and threads that wait asleep."""

from ltcache.process.allocation import keep_freed_memory
from ltcache.process.openmp import spin_briefly, wait_asleep
from ltcache.process.processors import processor_quota, usable_processors

__all__ = [
    "keep_freed_memory",
    "processor_quota",
    "spin_briefly",
    "usable_processors",
    "wait_asleep",
]
