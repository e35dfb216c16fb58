"""A retrieval with images on disk, for what people look at."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ltcache.cache import Cache
from ltcache.retrieval import RetrievalResult, RetrievalSettings, retrieve_tail
from ltcache.retrieval.guards.neighbours import NearThreshold
from ltcache.retrieval.record import RetrievalRecord, RetrievalThresholds, RetrievedClass
from ltcache.retrieval.result import ACCEPTED, COLUMNS, tallied
from ltcache.retrieval.scoring.threshold import ProbabilityThreshold
from tests.fakes import FakeCache
from tests.retrieval.conftest import CLASSES, World

SCRIPT = "<script>document.title = 'executed'</script><img src=x onerror=\"document.title = 1\">"


def write_pictures(root: Path, count: int, size: int = 40) -> list[str]:
    """Write ``0.png``, ``1.png``... of changing colour; return their SHA-256."""
    root.mkdir()
    hashes = []
    for n in range(count):
        colour = tuple(int(v) for v in np.random.default_rng(n).integers(0, 256, 3))
        Image.new("RGB", (size, size), colour).save(root / f"{n}.png")
        hashes.append(hashlib.sha256((root / f"{n}.png").read_bytes()).hexdigest())
    return hashes


class Shop:
    """A cache, a pool, the images of both, and a result in a directory."""

    def __init__(self, root: Path, per_class: int = 4) -> None:
        world = World(root)
        self.cache: Cache = world.labelled()
        # no image of class 5: an honest zero
        self.pool: Cache = world.pool(self.cache, np.repeat(np.arange(CLASSES - 1), 12))
        self.images, self.pool_images = root / "photos", root / "web"
        write_pictures(self.images, len(self.cache.rows()))
        write_pictures(self.pool_images, len(self.pool.rows()))
        self.out = root / "retrieved"
        self.result: RetrievalResult = retrieve_tail(
            self.cache, self.pool, self.out, RetrievalSettings(per_class=per_class)
        )


def wide_result(classes: int, each: int) -> tuple[RetrievalResult, FakeCache]:
    """Return ``each`` images taken for every class, and a cache it could have been made for."""
    cache = FakeCache(np.full(classes, 5), splits=())
    rows = np.arange(classes * each)
    labels = np.repeat(np.arange(classes), each)
    texts = {"class_name": [cache.classes.names[label] for label in labels]}
    texts |= {name: [""] * len(rows) for name in ("reason", "duplicate_of", "held_out_key")}
    texts |= {name: [f"{name} {n}" for n in rows] for name in ("caption", "licence", "source")}
    numbers = {
        "p": 1 / (1 + np.exp(-np.linspace(8, 0, len(rows)))),
        "log_odds": np.linspace(8, 0, len(rows)),
        "margin": np.linspace(9, 1, len(rows)),
        "runner_up": (labels + 1) % classes,
        "rank": np.tile(np.arange(1, each + 1), classes),
        "train_row": labels * 5 + rows % 5,
        "train_label": labels,
        "train_similarity": np.full(len(rows), 0.75),
        "held_out_similarity": np.full(len(rows), -1.0),
    }
    columns: dict[str, Any] = {
        "pool_row": rows,
        "label": labels,
        "key": [f"w{n}" for n in rows],
        "uri": [f"{n}.png" for n in rows],
        "runner_up_name": texts["class_name"],
        "status": [ACCEPTED] * len(rows),
        "train_key": [f"k{n}" for n in numbers["train_row"]],
        "sha256": [""] * len(rows),
        "width": np.full(len(rows), 64),
        "height": np.full(len(rows), 64),
        "url": [f"https://example.org/{n}" for n in rows],
    }
    table = pa.table({name: ({**columns, **texts, **numbers})[name] for name in COLUMNS})
    made = {"classes": cache.classes.identity(), "encoder": cache.encoder}
    made["rows"] = cache.manifest.identity()["rows"]
    named = enumerate(cache.classes.names)
    asked = [RetrievedClass(label, name, (f"a {name}",), 5, each) for label, name in named]
    record = RetrievalRecord(
        RetrievalSettings(prompts="default"),
        {"cache": made, "pool": {"rows": len(rows)}},
        "wide",
        "wide pool",
        RetrievalThresholds(ProbabilityThreshold(0.5), NearThreshold(2.0, 0.003, 0, "image", {})),
        "",
        tuple(tallied(entry, table) for entry in asked),
    )
    return RetrievalResult(table, record), cache
