"""The one contract of what is inserted into an image tower, and of how it is named and rebuilt.

An adapter starts as an identity: its last weight is zero (or its gate one), so that the features
of an adapted tower are those of its parent until the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from ltcache.errors import EncoderError
from ltcache.records import one_line


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter by name, with its options; resolved ones rebuild it without a context."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@one_line
@dataclass(frozen=True, eq=False)
class AdapterContext:
    """What adapters can be built from besides their options.

    Args:
        num_classes: C. descriptions: embeddings of the classes' descriptions by the text tower,
            (C, D). Both None where an adapter is rebuilt from resolved options.
    """

    num_classes: int | None = None
    descriptions: Tensor | None = None


class TowerAdapter(nn.Module):
    """Base of all adapters; hyper-parameters are keyword arguments.

    ``Adapter(visual, seed=..., context=..., **options)`` builds it for an image tower on the CPU
    in float32; :meth:`attach` puts it there.

    Attributes:
        options: every option, resolved and JSON-able; ``Adapter(visual, **options)`` is the same
            architecture again.
        mergeable: :meth:`merge` leaves a tower of the same architecture as before.
        fidelity: ``exact``, ``analogue`` or ``reconstruction`` of reference.
        reference, equation: where it is from, and what it computes.
        needs: parts of the context without which it cannot be built anew.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    mergeable: ClassVar[bool] = False
    fidelity: ClassVar[str]
    reference: ClassVar[str]
    equation: ClassVar[str]
    options: Mapping[str, Any]

    def __init__(self, visual: nn.Module, *, seed: int, context: AdapterContext) -> None:
        super().__init__()

    def attach(self, visual: nn.Module) -> None:
        """Let the tower's forward pass go through the adapter."""
        raise NotImplementedError

    def merge(self, visual: nn.Module) -> None:
        """Fold the adapter into the weights of the tower and take it away.

        Raises:
            EncoderError: it is no function of weights alone.
        """
        raise EncoderError(f"{type(self).__name__} cannot be merged into the tower's weights")


def generator_of(seed: int) -> Generator:
    """Return the source of an adapter's start values, on the CPU."""
    return Generator().manual_seed(seed)


def tower_name(visual: nn.Module) -> str:
    """Return what messages call an image tower."""
    trunk = timm_trunk(visual)
    return type(visual).__name__ if trunk is None else f"timm {type(trunk).__name__}"


def timm_trunk(visual: nn.Module) -> Any:
    """Return timm's model of an image tower, which it wraps or which it is, or None."""
    trunk = getattr(visual, "trunk", visual)
    return trunk if hasattr(trunk, "pretrained_cfg") else None


def require_positive(name: str, **options: int) -> None:
    """Refuse sizes below one.

    Raises:
        EncoderError: with the option's name.
    """
    for option, value in options.items():
        if value < 1:
            raise EncoderError(f"{name}.{option}={value} is not at least 1")
