"""A loss of one's own: one line registers it, the command line trains it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.commands import start_ltcache

MODULE = '''
from ltcache.losses import LOSSES, OffsetCrossEntropy


class Sharpened(OffsetCrossEntropy):
    """Cross entropy plus some power of the prior."""

    reference = "this file"
    equation = "CE(z + power log pi, y)"

    def __init__(self, class_counts, *, power: float = 2.0, smooth_prior: bool = False):
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.power = power
        self.set_offset(power * self.prior.log())


LOSSES["sharpened"] = Sharpened
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with imported features as ``cache`` and a module with a loss."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 12, 6])
    features = np.eye(3, 8)[labels] + 0.3 * rng.normal(size=(len(labels), 8))
    arrays = {"train_features": features, "train_labels": labels}
    arrays |= {"test_features": features[::3], "test_labels": labels[::3]}
    np.savez(folder / "features.npz", **arrays)
    (folder / "my_losses.py").write_text(MODULE)
    assert _ltcache(folder, "import", "features.npz", "--out", "cache").returncode == 0
    return folder


def _ltcache(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return start_ltcache(*arguments, cwd=folder, environ={**os.environ, **environ}).finish()


def _fit(folder: Path, out: str, *before: str, **environ: str) -> dict[str, object]:
    done = _ltcache(
        folder, *before, "fit-adapter", "cache", "--method", "ce", "--out", out, "-s",
        "loss=sharpened", "-s", "loss.power=1.5", "-s", "optimisation.epochs=3", **environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = json.loads((folder / out / "config.json").read_text())
    stage: dict[str, object] = config["stages"][-1]
    return stage


def test_a_module_with_one_line_is_trained_from_the_command_line(folder: Path) -> None:
    for stage in (
        _fit(folder, "one", "--import", "my_losses"),
        _fit(folder, "two", LTCACHE_IMPORT="my_losses"),
    ):
        assert stage["loss"] == "sharpened"
        assert stage["loss_options"] == {"power": 1.5, "smooth_prior": False}
    a, b = ((folder / out / "head.safetensors").read_bytes() for out in ("one", "two"))
    assert a == b


@pytest.mark.parametrize(
    ("module", "text"),
    [("no_losses", "there is no such module"), ("broken", "No module named 'nowhere_at_all'")],
)
def test_a_module_that_cannot_be_imported_is_named(folder: Path, module: str, text: str) -> None:
    (folder / "broken.py").write_text("import nowhere_at_all\n")
    done = _ltcache(folder, "--import", module, "methods")
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr


def test_without_the_module_the_loss_is_unknown(folder: Path) -> None:
    done = _ltcache(folder, "fit-adapter", "cache", "--out", "x", "-s", "loss=sharpened")
    assert done.returncode == 2 and "unknown loss 'sharpened'" in done.stderr
