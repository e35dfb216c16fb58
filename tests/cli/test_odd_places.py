"""Whatever lies at a place that a command is given, it is named in one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Call
from tests.retrieval.conftest import World

PLACES = {
    "run": ("run.json", "[]"),
    "cache": ("cache.json", "[]"),
    "result": ("retrieve.json", "[]"),
    "ensemble": ("ensemble.json", "[]"),
    "index": ("index.json", "[]"),
    "export": ("export.json", "[]"),
    "checkpoint": ("ltcache.json", "[]"),
    "dataset": ("dataset.json", "[]"),
    "notes": ("notes.txt", "\xff\xfe\x00"),
}
"""Folder -> a file in it, which is not what its name promises."""
COMMANDS = (
    "inspect PLACE",
    "verify PLACE",
    "diff PLACE CACHE",
    "diff CACHE PLACE",
    "zero-shot PLACE",
    "prompts PLACE --templates openai",
    "prompts CACHE --templates PLACE",
    "fit-adapter PLACE --out OUT",
    "fit-adapter CACHE --out OUT --extra PLACE",
    "ablate PLACE --methods ce --out OUT",
    "ablate CACHE --methods ce --out OUT --extra PLACE",
    "retrieve-tail PLACE CACHE --out OUT",
    "retrieve-tail CACHE PLACE --out OUT",
    "retrieve-tail CACHE CACHE --out OUT --index PLACE",
    "review PLACE --decisions PLACE",
    "review PLACE CACHE --tsne",
    "retrieve-tail CACHE CACHE --out OUT --decisions PLACE",
    "search PLACE --text word",
    "finetune PLACE --out OUT",
    "report PLACE",
    "evaluate PLACE",
    "ensemble PLACE zero-shot --weights 1,1 --out OUT",
    "ensemble zero-shot:CACHE zero-shot:PLACE --weights 1,1 --out OUT",
    "predict PLACE PLACE",
    "import PLACE --out OUT",
    "import FEATURES --out OUT --labels PLACE",
    "import FEATURES --out OUT --text PLACE",
    "import FEATURES --out OUT --classes PLACE",
    "import FEATURES --out OUT --manifest PLACE",
    "import FEATURES --out OUT --encoder-of PLACE",
    "export PLACE --out OUT",
    "extract PLACE --out OUT",
    "extract emoji_lt --out OUT --model local-dir:PLACE",
    "extract emoji_lt --out OUT --classes PLACE",
    "extract emoji_lt --out OUT --templates PLACE",
    "zero-shot CACHE --config PLACE",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a cache, its features, and odd places in folders and alone."""
    root = tmp_path_factory.mktemp("world")
    World(root).labelled()
    for name, (file, content) in PLACES.items():
        (root / f"odd-{name}").mkdir()
        (root / f"odd-{name}" / file).write_bytes(content.encode("latin-1"))
    (root / "odd-empty").mkdir()
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_of_another_kind_is_named(call: Call, world: Path, command: str) -> None:
    odd = sorted(world.glob("odd-*"))
    for place in (*odd, world / "odd-notes" / "notes.txt", world / "odd-gone"):
        meant = {"CACHE": world / "cache", "FEATURES": world / "cache.npz", "OUT": world / "out"}
        words = [str(meant.get(word, word)) for word in command.replace("PLACE", "#").split()]
        words = [w.replace("#", str(place)).replace("CACHE", str(world / "cache")) for w in words]
        status, _, err = call(*words)
        assert status in (1, 2, 4), (place, err)
        assert place.name in err, err
        assert not (world / "out").exists()


def test_an_empty_argument_is_no_place(call: Call) -> None:
    status, _, err = call("finetune", "photos", "--out", "x", "--model", "")
    assert status == 2 and "the argument after --model is empty" in err
    assert "is empty" in call("inspect", "")[2]
