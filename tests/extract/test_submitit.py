"""Tasks that submitit starts share one extraction, told which they are as on a Slurm cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.cache.cost import read_cost
from ltcache.encoder import load_encoder
from ltcache.extract import extract
from tests.extract.kill_driver import digests

ROOT = Path(__file__).parents[2]
SMALL = {"shard_size": 4, "batch_size": 2, "threads": 1}


def task_of_job(images: Path, model: Path, out: Path) -> tuple[int, int]:
    """Extract as one task of a job; returns its number and how many there are."""
    from submitit.helpers import TorchDistributedEnvironment

    from ltcache.process import part_of_work

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    extract(images, out, model=f"local-dir:{model}", **SMALL)
    part = part_of_work()
    return part.rank, part.size or 0


@pytest.mark.slow
def test_two_tasks_of_a_job_make_one_cache(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import submitit

    alone, out = tmp_path / "alone", tmp_path / "cache"
    encoder = load_encoder(f"local-dir:{tiny_clip}")
    extract(folder_of_images, alone, encoder=encoder, **SMALL)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    executor = submitit.LocalExecutor(folder=tmp_path / "jobs")
    executor.update_parameters(tasks_per_node=2, timeout_min=5)
    job = executor.submit(task_of_job, folder_of_images, tiny_clip, out)
    assert job.results() == [(0, 2), (1, 2)]
    assert digests(out) == digests(alone)
    assert read_cost(out)["images"] <= 2 * read_cost(alone)["images"]
