"""The state of a training that is under way: written whole, read by the process that goes on.

    .OUT.tuning/
      state.json                 where the training is; names the tensors' file and its SHA-256
      tensors-<step>.safetensors what trains, the optimiser's state, buffers of losses
      best-<epoch>.safetensors   what trains, at the epoch that validation images like best

No pickles. ``state.json`` is replaced last, so a kill at any moment leaves the state before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltcache.errors import FitError, UsageError
from ltcache.finetune.processes import ProcessRanks
from ltcache.finetune.spec import without_words
from ltcache.metrics import EpochRecord
from ltcache.records import (
    at_work,
    committed,
    file_digest,
    read_record,
    require_equal,
    seen_at_work,
    write_whole,
)

FORMAT = 1
_STATE = "state.json"


@dataclass
class TrainingState:
    """Where a training is.

    Attributes:
        epoch: from 0. step: within the epoch, the next one to be done.
        losses, images: sum of the losses of this epoch's steps so far, and their images.
        passed: steps of this epoch so far for which no image could be read.
        history: one record per finished epoch.
        best_epoch: from 1; 0: none yet. best: its rank, higher is better.
        seconds: of training before, over all processes that had a part in it.
        scaler: of the gradient scaler, or empty.
        failures: uri -> reason, of training images that could not be read so far.
    """

    epoch: int = 0
    step: int = 0
    losses: float = 0.0
    images: int = 0
    passed: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best: tuple[float, float] = (-1.0, 0.0)
    seconds: float = 0.0
    scaler: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class StateFolder:
    """The folder of a training's state.

    Args:
        path: where it is to be. config: all that determines the result, as JSON.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = dict(config)

    @contextmanager
    def held(self, place: ProcessRanks) -> Iterator[None]:
        """Say that a training is under way here; where another one is, refuse.

        Args:
            place: this process among those that train together.

        Raises:
            UsageError: another process trains here, on this machine or another one.
        """
        if seen_at_work(self.path):
            raise UsageError(
                f"{self.path}: another process is tuning there at this moment. Let it finish: the "
                "same command opens then what it has made; or choose another --out"
            )
        place.wait()  # before all have looked, nobody is at work
        with at_work(self.path) if place.first else nullcontext():
            yield

    def read(self) -> tuple[TrainingState, dict[str, Tensor]] | None:
        """Return where the training is and its tensors, or None where none has begun.

        Raises:
            IdentityError: another method, seed, source or encoder began it; names what differs.
            FitError: a file of it is damaged.
        """
        path = self.path / _STATE
        if not path.exists():
            return None
        remedy = (
            f"an unfinished training lies in {self.path}: continue it with its own settings, "
            "choose another --out, or give it up with --restart"
        )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            begun = content["config"]  # of earlier versions with the words about the method
            begun = {**begun, "method": without_words(begun["method"])}
            require_equal("fine-tuning", begun, self.config, remedy=remedy)
            place = read_record(TrainingState, content["place"], name=_STATE)
            tensors = self._tensors(content["tensors"], content["sha256"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if hasattr(error, "exit_status"):
                raise
            raise FitError(
                f"{path}: cannot be read ({error}); start again with --restart"
            ) from None
        return place, tensors

    def write(self, place: TrainingState, tensors: Mapping[str, Tensor]) -> None:
        """Replace the state, in one step."""
        name = f"tensors-{place.epoch}-{place.step}.safetensors"
        self._save(name, tensors)
        content = {
            "format": FORMAT,
            "config": self.config,
            "place": asdict(place),
            "tensors": name,
            "sha256": file_digest(self.path / name),
        }
        write_whole(self.path / _STATE, (json.dumps(content, indent=1) + "\n").encode())
        kept = {name, _best_name(place.best_epoch), _STATE}
        for file in self.path.iterdir():
            if file.name not in kept and file.is_file():
                file.unlink(missing_ok=True)

    def write_best(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep what trains as it is after an epoch (from 1)."""
        self._save(_best_name(epoch), tensors)

    def read_best(self, epoch: int) -> dict[str, Tensor]:
        """Return what :meth:`write_best` kept.

        Raises:
            FitError: it is damaged.
        """
        try:
            return self._tensors(_best_name(epoch), None)
        except (OSError, ValueError, SafetensorError) as error:
            if isinstance(error, FileNotFoundError):
                raise FitError(
                    f"{self.path}: what was kept of epoch {epoch} is gone: another process has "
                    "finished this training meanwhile, or given it up. The same command opens what "
                    "it has made, or begins anew"
                ) from None
            raise FitError(f"{self.path}: cannot be read ({error}); use --restart") from None

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with committed(self.path / name) as temporary:
            save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, temporary)

    def _tensors(self, name: str, digest: str | None) -> dict[str, Tensor]:
        path = self.path / name
        if digest is not None and file_digest(path) != digest:
            raise ValueError(f"{name} is damaged")
        found: dict[str, Tensor] = load_file(path)
        return found


def _best_name(epoch: int) -> str:
    return f"best-{epoch}.safetensors"


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the optimiser's state as ``optimiser.KEY.PARAMETER`` -> tensor."""
    return {
        f"optimiser.{key}.{name}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what :func:`optimiser_tensors` gave, laid out in memory as the parameters are: fused
    steps go through both as they lie there."""
    for name, value in tensors.items():
        if not name.startswith("optimiser."):
            continue
        key, _, parameter = name.removeprefix("optimiser.").partition(".")
        target = parameters[parameter]
        if value.ndim and value.shape == target.shape:
            room = torch.empty_like(target, dtype=value.dtype, requires_grad=False)
        else:  # counts of steps stay where the optimiser made them, on the CPU unless it is fused
            device = target.device if value.ndim or _fused(optimiser) else value.device
            room = torch.empty_like(value, device=device)
        optimiser.state[target][key] = room.copy_(value)


def _fused(optimiser: torch.optim.Optimizer) -> bool:
    return any(group.get("fused") for group in optimiser.param_groups)
