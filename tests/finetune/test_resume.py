"""A training that was killed goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcache.errors import FitError, UsageError
from ltcache.finetune import FineTuned, finetune
from ltcache.finetune.state import load_optimiser, optimiser_tensors
from ltcache.fit import optimiser_of
from ltcache.manifest import Manifest
from ltcache.methods import Optimisation
from tests.conftest import PATIENCE
from tests.finetune.pictures import read_pictures, write_pictures

EPOCHS = {"optimisation.epochs": 3, "optimisation.batch": 8, "optimisation.lr": 1e-2}


def tuned(source: Manifest, model: str, out: Path, method: str, **options: Any) -> FineTuned:
    return finetune(
        source, method, out, model=model, device="cpu", workers=0, save_every=1,
        overrides={**EPOCHS, **options.pop("overrides", {})}, **options,
    )  # fmt: skip


def until(where: tuple[int, int], told: Connection, arguments: dict[str, Any]) -> None:
    """Train until a step, tell of it, and wait for what comes."""
    torch.set_num_threads(1)

    def stop(record: dict[str, Any]) -> None:
        if (record["epoch"], record.get("step")) == where:
            told.send(os.getpid())
            time.sleep(PATIENCE)

    tuned(**arguments, progress=stop)


def killed(where: tuple[int, int], arguments: dict[str, Any]) -> None:
    """Train in a process of its own and kill it at a step."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=until, args=(where, there, arguments))
    process.start()
    there.close()  # where the process ends by itself, nobody holds its end, and this one wakes
    assert here.poll(PATIENCE)
    os.kill(here.recv(), signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def assert_same_bytes(one: FineTuned, two: FineTuned) -> None:
    states = [dict(done.encoder.model.state_dict()) for done in (one, two)]
    for state, done in zip(states, (one, two), strict=True):
        if done.head is not None:
            state |= {f"head.{name}": value for name, value in done.head.state_dict().items()}
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    keys = ("epoch", "loss", "lr", "val_mean_per_class", "val_nll")
    shown = [[{key: record[key] for key in keys} for record in d.history] for d in (one, two)]
    assert shown[0] == shown[1]
    assert one.record.epoch == two.record.epoch


@pytest.mark.parametrize(
    ("method", "overrides", "where"),
    [
        ("ballad", {"sampler": "class_aware"}, (2, 2)),
        ("full", {"loss": "seesaw", "classifier.init": "class_mean"}, (3, 2)),
        ("lift", {"loss": "gcl", "loss.scale": 25.0}, (1, 3)),
        ("lift", {"composites": 0.75}, (2, 2)),
        ("vl-ltr", {"loss.templates": "openai-simple"}, (2, 2)),
    ],
    ids=[
        "sgd",
        "adamw and online counts",
        "adapters and noise",
        "pasted batches",
        "random sentences",
    ],
)
def test_killed_and_resumed_is_as_uninterrupted(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    method: str, overrides: dict[str, Any], where: tuple[int, int],
) -> None:  # fmt: skip
    monkeypatch.setattr("ltcache.finetune.loop._TICK", 0.0)
    arguments = {
        "source": pictures, "model": towers["vit"], "out": tmp_path / "killed",
        "method": method, "overrides": overrides,
    }  # fmt: skip
    killed(where, arguments)
    state = json.loads((tmp_path / ".killed.tuning" / "state.json").read_text())["place"]
    assert 0 < state["epoch"] * 3 + state["step"] < 9
    steps: list[tuple[int, int]] = []

    def note(record: dict[str, Any]) -> None:
        if "step" in record:
            steps.append((record["epoch"] - 1, record["step"] - 1))

    resumed = tuned(**arguments, progress=note)
    assert steps[0] == (state["epoch"], state["step"])  # what was done is not done again
    whole = tuned(pictures, towers["vit"], tmp_path / "whole", method, overrides=overrides)
    assert_same_bytes(resumed, whole)
    assert not (tmp_path / ".killed.tuning").exists()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_optimiser_goes_on_in_the_layout_of_the_parameters(kind: Any) -> None:
    """Fused steps go through a parameter and its moments as they lie in memory."""
    begun, gradients = torch.randn(6, 4, 3, 3), torch.randn(3, 6, 4, 3, 3)
    how = Optimisation(kind, 0.1, momentum=0.9)

    def made(value: torch.Tensor) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(value.clone(memory_format=torch.channels_last))
        return parameter, optimiser_of([{"params": [parameter], "weight_decay": 0.0}], how)

    def moved(parameter: torch.nn.Parameter, optimiser: Any, some: torch.Tensor) -> None:
        for gradient in some:
            parameter.grad = gradient.to(memory_format=torch.channels_last)
            optimiser.step()

    whole, optimiser = made(begun)
    moved(whole, optimiser, gradients[:2])
    saved = optimiser_tensors(optimiser, {"weight": whole})
    kept = {name: tensor.clone().contiguous() for name, tensor in saved.items()}
    resumed, another = made(whole.detach())
    load_optimiser(another, {"weight": resumed}, kept)
    moved(whole, optimiser, gradients[2:])
    moved(resumed, another, gradients[2:])
    assert torch.equal(resumed, whole)


def test_better_words_about_a_method_make_no_other_result(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltcache.finetune.loop._TICK", 0.0)
    out, model = tmp_path / "tuned", towers["vit"]
    begun = {"source": pictures, "model": model, "out": out, "method": "lift"}
    killed((1, 3), begun)
    state = tmp_path / ".tuned.tuning" / "state.json"
    worded = json.loads(state.read_text())
    worded["config"]["method"] |= {"differs": "as it was put before", "title": "LIFT"}
    state.write_text(json.dumps(worded))
    assert tuned(pictures, model, out, "lift").fresh
    record = out / "ltcache.json"
    worded = json.loads(record.read_text())
    worded["record"] |= {"key": "of all words"}
    worded["record"]["method"] |= {"differs": "as it was put before"}
    record.write_text(json.dumps(worded))
    assert not tuned(pictures, model, out, "lift").fresh


def test_a_damaged_state_is_a_clear_error(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path
) -> None:
    def stop(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(pictures, towers["vit"], tmp_path / "out", "lift", progress=stop)
    (file,) = (tmp_path / ".out.tuning").glob("tensors-*.safetensors")
    file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    with pytest.raises(FitError, match="damaged.*--restart"):
        tuned(pictures, towers["vit"], tmp_path / "out", "lift")
    assert tuned(pictures, towers["vit"], tmp_path / "out", "lift", resume=False).fresh


def test_a_second_process_is_refused_while_one_is_at_work(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path
) -> None:
    refused: list[str] = []

    def begin_again(record: dict[str, Any]) -> None:
        if not refused:
            with pytest.raises(UsageError) as caught:
                tuned(pictures, towers["vit"], tmp_path / "out", "lift")
            refused.append(str(caught.value))

    first = tuned(pictures, towers["vit"], tmp_path / "out", "lift", progress=begin_again)
    assert "another process is tuning there at this moment" in refused[0]
    assert first.fresh
    assert not tuned(pictures, towers["vit"], tmp_path / "out", "lift").fresh
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_state_that_another_process_took_away_is_told(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path
) -> None:
    def lose(record: dict[str, Any]) -> None:
        if record["epoch"] == 3:
            shutil.rmtree(tmp_path / ".out.tuning", ignore_errors=True)

    with pytest.raises(FitError, match="another process has finished this training meanwhile"):
        tuned(pictures, towers["vit"], tmp_path / "out", "lift", progress=lose)


def test_images_that_failed_before_the_kill_are_named_in_the_record(
    towers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltcache.finetune.loop._TICK", 0.0)
    source = read_pictures(write_pictures(tmp_path / "images"))
    lost = sorted((tmp_path / "images" / "red fox").iterdir())[-8:]
    for path in lost:
        path.write_bytes(b"")
    once = {"optimisation.epochs": 1, "sampler": "instance"}

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 3:  # the last one; saved before it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(source, towers["vit"], tmp_path / "out", "lift", overrides=once, progress=stop)
    resumed = tuned(source, towers["vit"], tmp_path / "out", "lift", overrides=once)
    assert resumed.record.failures == {
        path.relative_to(tmp_path / "images").as_posix(): "empty file (0 bytes)" for path in lost
    }


def test_a_batch_without_images_is_a_step_so_that_a_resume_goes_on_behind_it(
    towers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltcache.finetune.loop._TICK", 0.0)
    source = read_pictures(write_pictures(tmp_path / "images"))
    lost = sorted((tmp_path / "images" / "red fox").iterdir())[-4:]
    for path in lost:
        path.write_bytes(b"")
    once = {
        "optimisation.epochs": 2, "optimisation.batch": 1, "sampler": "instance",
        "augmentation": "none",
    }  # fmt: skip
    steps: list[tuple[int, int]] = []

    def stop(record: dict[str, Any]) -> None:
        if record.get("step") == 18:
            raise KeyboardInterrupt

    def note(record: dict[str, Any]) -> None:
        if "step" in record:
            steps.append((record["epoch"], record["step"]))

    with pytest.raises(KeyboardInterrupt):
        tuned(source, towers["vit"], tmp_path / "out", "lift", overrides=once, progress=stop)
    state = json.loads((tmp_path / ".out.tuning" / "state.json").read_text())["place"]
    assert 0 < state["passed"] <= len(lost)
    resumed = tuned(source, towers["vit"], tmp_path / "out", "lift", overrides=once, progress=note)
    assert steps[0] == (state["epoch"] + 1, state["step"] + 1)
    assert len(set(steps)) == len(steps)
    whole = tuned(source, towers["vit"], tmp_path / "whole", "lift", overrides=once)
    assert_same_bytes(resumed, whole)
