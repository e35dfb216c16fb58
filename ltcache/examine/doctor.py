"""What this machine has for ltcache, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ltcache.errors import first_line
from ltcache.extras import EXTRAS, how_to_install
from ltcache.process import launched_process, processor_quota, usable_processors
from ltcache.records import JsonRecord

OK, NOTE, FAILED = "ok", "note", "failed"
LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip_torch": "open_clip",
    "timm": "timm",
    "faiss": "faiss",
    "h5py": "h5py",
    "numpy": "numpy",
    "scikit-learn": "sklearn",
    "pyarrow": "pyarrow",
    "Pillow": "PIL",
}
"""Distribution -> module, of what ltcache cannot do without."""
SAMPLE, SAMPLED = "emoji_lt_two_class", 64
"""A packaged list, and how many of its images are encoded."""
LEAST_SHARED = 1 << 30
"""Bytes of /dev/shm below which processes that load images soon run out of it."""
LEAST_FREE = 5 << 30
"""Bytes on the disk of downloaded weights below which a large model may not fit."""


@dataclass(frozen=True)
class DoctorFinding(JsonRecord):
    """One thing that was looked at.

    Args:
        name: of the thing. status: :data:`OK`, :data:`NOTE` (works, but know this) or
            :data:`FAILED`.
        detail: what was found. remedy: what to do about it, where there is something to do.
    """

    name: str
    status: str
    detail: str
    remedy: str = ""


def examine() -> Iterator[DoctorFinding]:
    """Yield a finding for everything that there is to look at, the quick ones first.

    Nothing is downloaded, and nothing is left behind.
    """
    yield DoctorFinding("python", OK, f"{platform.python_version()} on {platform.platform()}")
    failed = False
    for finding in libraries():
        failed |= finding.status == FAILED
        yield finding
    yield extras()
    if failed:
        return
    for check in CHECKS:
        yield _looked(check)


def libraries() -> Iterator[DoctorFinding]:
    """Yield a finding for each of :data:`LIBRARIES`: it is imported, not only looked up."""
    for name, module in LIBRARIES.items():
        try:
            loaded = importlib.import_module(module)
        except Exception as error:  # a library that does not fit another fails in its own way
            detail = f"{type(error).__name__}: {first_line(error)}"
            yield DoctorFinding(name, FAILED, detail, _reinstall(name))
        else:
            yield DoctorFinding(name, OK, str(getattr(loaded, "__version__", "version not known")))


def extras() -> DoctorFinding:
    """Return which optional parts are installed."""
    there = {name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()}
    missing = [name for name, found in there.items() if not found]
    detail = ", ".join(f"{name} {'yes' if found else 'no'}" for name, found in there.items())
    remedy = f"{how_to_install(*missing)} adds them" if missing else ""
    return DoctorFinding("extras", OK, detail, remedy)


def processors() -> DoctorFinding:
    """Return how many processors there are, and whether torch uses more than that."""
    import torch

    usable, quota, threads = usable_processors(), processor_quota(), torch.get_num_threads()
    limit = "" if quota is None else f", quota {quota:g}"
    detail = f"{usable} usable of {os.cpu_count()}{limit}; torch computes with {threads} threads"
    if threads > usable:
        remedy = f"more threads than processors are much slower: set OMP_NUM_THREADS={usable}"
        return DoctorFinding("processors", NOTE, detail, remedy)
    return DoctorFinding("processors", OK, detail)


def several_processes() -> DoctorFinding:
    """Return by what work can be carried out in several processes from here."""
    import torch

    here, usable = launched_process(), usable_processors()
    ways = [f"--gpus all starts {torch.cuda.device_count()}"] if torch.cuda.is_available() else []
    ways += [f"--processes N up to {usable}"] if usable > 1 else []
    ways += ["--engine ray"] if importlib.util.find_spec("ray") else []
    ways += [name for name in ("srun", "sbatch", "mpirun", "torchrun") if shutil.which(name)]
    detail = f"extract: {', '.join([*ways, '--part I/N'])}; retrieve-tail and verify: --part"
    if here.launcher:
        detail += f"; this process is {here.rank + 1} of {here.size} of {here.launcher}"
    return DoctorFinding("several processes", OK, detail)


def device() -> DoctorFinding:
    """Return the device that ``--device auto`` takes, after computing something on it."""
    import torch

    from ltcache.encoder import choose_device

    place = choose_device("auto")
    ones = torch.ones(64, 64, device=place)
    if float((ones @ ones).sum()) != 64.0**3:
        return DoctorFinding(
            "device", FAILED, f"{place} gives a wrong product of matrices", _DRIVER
        )
    if place.type != "cuda":
        return DoctorFinding("device", OK, f"{place.type}: ltcache bench tells how fast it is")
    about = torch.cuda.get_device_properties(place)
    detail = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return DoctorFinding("device", OK, f"{detail}: ltcache bench tells how fast it is")


def shared_memory() -> DoctorFinding:
    """Return how much shared memory there is for the processes that load images in finetune."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return DoctorFinding("shared memory", OK, "no /dev/shm on this system")
    free = shutil.disk_usage(place).free
    if free < LEAST_SHARED:
        remedy = "finetune with --workers 0, or start the container with --shm-size 8g"
        return DoctorFinding("shared memory", NOTE, f"{_gigabytes(free)} free in /dev/shm", remedy)
    return DoctorFinding("shared memory", OK, f"{_gigabytes(free)} free in /dev/shm")


def downloaded_weights() -> DoctorFinding:
    """Return whether weights can be stored where the Hugging Face hub stores them."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    place = Path(HF_HUB_CACHE)
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    detail = f"{place}, {_gigabytes(free)} free{', HF_HUB_OFFLINE is set' * bool(HF_HUB_OFFLINE)}"
    if not os.access(there, os.W_OK):
        remedy = "set HF_HOME to a folder that you may write to"
        return DoctorFinding(
            "downloaded weights", NOTE, f"{detail}; {there} is not writable", remedy
        )
    if free < LEAST_FREE:
        remedy = "set HF_HOME to a larger disk for ViT-L and more"
        return DoctorFinding("downloaded weights", NOTE, detail, remedy)
    return DoctorFinding("downloaded weights", OK, detail)


def extraction() -> DoctorFinding:
    """Return whether a few packaged images become a cache in the working directory, and how fast
    the embedded encoder is here."""
    import numpy as np

    from ltcache.cache import open_cache
    from ltcache.encoder import load_encoder
    from ltcache.extract import extract
    from ltcache.manifest import read_manifest

    encoder, images = load_encoder("embedded"), read_manifest(SAMPLE).head(SAMPLED)
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".ltcache-doctor-") as folder:
        started = time.perf_counter()
        extract(images, Path(folder) / "cache", encoder=encoder)
        seconds = time.perf_counter() - started
        features = np.array(open_cache(Path(folder) / "cache").features("train", "embedding"))
    if len(features) != SAMPLED or not np.isfinite(features).all():
        return DoctorFinding("extraction", FAILED, "features are missing or not finite", _DRIVER)
    detail = f"{SAMPLED} packaged images and their class prompts in {seconds:.1f} s"
    return DoctorFinding("extraction", OK, f"{detail}, written to {os.getcwd()} and removed")


CHECKS: tuple[Callable[[], DoctorFinding], ...] = (
    processors,
    several_processes,
    device,
    shared_memory,
    downloaded_weights,
    extraction,
)
"""What is looked at once the libraries are there."""
_DRIVER = "the driver or the build of torch is at fault: see pytorch.org/get-started"


def _looked(check: Callable[[], DoctorFinding]) -> DoctorFinding:
    """Return what a check finds; that it fails is a finding as well."""
    try:
        return check()
    except Exception as error:
        name = check.__name__.replace("_", " ")
        return DoctorFinding(name, FAILED, f"{type(error).__name__}: {first_line(error)}")


def _reinstall(name: str) -> str:
    both = "torch torchvision" if name in ("torch", "torchvision") else name
    return f"{sys.executable} -m pip install --upgrade --force-reinstall {both}"


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
