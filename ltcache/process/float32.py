"""With how many digits a device multiplies float32: a setting of the whole process, for a while.

Torch lets a program (or an environment variable of a container) trade digits for speed: TF32 keeps
10 of a product's 23 bits, on an NVIDIA GPU from Ampere on, for convolutions even as torch comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class _SharedSetting:
    """A setting that is in force, how many hold it, and what ends it."""

    tf32: bool
    restores: tuple[Callable[[], None], ...]
    holders: int = 0


_LOCK = threading.Lock()
_in_force: list[_SharedSetting] = []  # the last one counts


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Multiply and convolve float32 in TF32, or else with all digits; afterwards as before.

    The settings are the whole process'. Threads that want the same hold it together, and the last
    of them restores what was there before the first.

    Args:
        tf32: False gives all digits, also where the process had allowed fewer.
    """
    import torch

    with _LOCK:
        if not _in_force or _in_force[-1].tf32 != tf32:
            _in_force.append(_SharedSetting(tf32, (_restores_products(), _restores_convolutions())))
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
        setting = _in_force[-1]
        setting.holders += 1
    try:
        yield
    finally:
        with _LOCK:
            setting.holders -= 1
            if not setting.holders:
                _in_force.remove(setting)
                for restore in setting.restores:
                    restore()


def _restores_products() -> Callable[[], None]:
    """Return what sets the products to what they are now."""
    import torch
    from torch import backends

    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # set through torch's newer interface, which the older refuses to read
        return _restores(backends.cuda.matmul, backends.mkldnn.matmul)  # type: ignore[attr-defined]
    return lambda: torch.set_float32_matmul_precision(before)


def _restores_convolutions() -> Callable[[], None]:
    from torch import backends

    try:
        before = backends.cudnn.allow_tf32
    except RuntimeError:  # as above
        return _restores(backends.cudnn.conv, backends.cudnn.rnn)  # type: ignore[attr-defined]

    def restore() -> None:
        backends.cudnn.allow_tf32 = before

    return restore


def _restores(*settings: object) -> Callable[[], None]:
    """Return what gives torch's newer settings the values that they have now."""
    before = [setting.fp32_precision for setting in settings]  # type: ignore[attr-defined]

    def restore() -> None:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value  # type: ignore[attr-defined]

    return restore
