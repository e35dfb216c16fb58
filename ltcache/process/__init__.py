"""How this process uses the machine (its processors, its memory, threads that wait asleep), and
which one of several processes it is.
"""

from ltcache.process.allocation import activations_kept, keep_freed_memory
from ltcache.process.crew import EndedProcess, ProcessCrew
from ltcache.process.float32 import float32_products
from ltcache.process.launched import (
    TORCHRUN,
    LaunchedProcess,
    environment_of_share,
    launched_process,
    part_of_work,
    part_to_merge,
)
from ltcache.process.openmp import spin_briefly, wait_asleep
from ltcache.process.passes import THREADS, ConcurrentPasses, passes_at_once, threads_of_passes
from ltcache.process.processors import processor_quota, usable_processors
from ltcache.process.ray_actors import (
    RESTARTS,
    ActorRequest,
    ActorShare,
    DeadActor,
    RayCluster,
    WorkMaker,
    ray_cluster,
)
from ltcache.process.transfer import pinned_memory, to_device

__all__ = [
    "RESTARTS",
    "THREADS",
    "TORCHRUN",
    "ActorRequest",
    "ActorShare",
    "ConcurrentPasses",
    "DeadActor",
    "EndedProcess",
    "LaunchedProcess",
    "ProcessCrew",
    "RayCluster",
    "WorkMaker",
    "activations_kept",
    "environment_of_share",
    "float32_products",
    "keep_freed_memory",
    "launched_process",
    "part_of_work",
    "part_to_merge",
    "passes_at_once",
    "pinned_memory",
    "processor_quota",
    "ray_cluster",
    "spin_briefly",
    "threads_of_passes",
    "to_device",
    "usable_processors",
    "wait_asleep",
]
