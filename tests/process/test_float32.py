"""How many digits products have, and that a process is left as it was found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import backends

from ltcache.process.float32 import float32_products

NEWER = hasattr(backends, "fp32_precision")


def settings() -> tuple[str, bool]:
    """Return what products and convolutions may do now."""
    return torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def as_torch_comes() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize(
    ("tf32", "expected"), [(True, ("high", True)), (False, ("highest", False))]
)
@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_digits_are_as_asked_for_and_then_as_before(
    tf32: bool, expected: tuple[str, bool], allowed: str, convolutions: bool
) -> None:
    torch.set_float32_matmul_precision(allowed)
    backends.cudnn.allow_tf32 = convolutions
    with pytest.raises(ZeroDivisionError), float32_products(tf32=tf32):
        assert settings() == expected
        raise ZeroDivisionError
    assert settings() == (allowed, convolutions)


@pytest.mark.skipif(not NEWER, reason="this torch has no fp32_precision")
@pytest.mark.parametrize("products", ["tf32", "ieee"])
@pytest.mark.parametrize("convolutions", ["tf32", "ieee"])
def test_a_program_that_uses_torchs_newer_settings_finds_them_again(
    products: str, convolutions: str
) -> None:
    newer = backends.cuda.matmul, backends.cudnn.conv  # type: ignore[attr-defined]
    for setting, value in zip(newer, (products, convolutions), strict=True):
        setting.fp32_precision = value
    with float32_products(tf32=False):
        assert settings() == ("highest", False)
        assert [setting.fp32_precision for setting in newer] != ["tf32", "tf32"]
    assert [setting.fp32_precision for setting in newer] == [products, convolutions]


def test_threads_hold_a_setting_together_and_the_last_one_restores_it() -> None:
    torch.set_float32_matmul_precision("medium")
    both, first_left, seen = threading.Barrier(2), threading.Event(), []

    def first() -> None:
        with float32_products(tf32=False):
            both.wait()
        first_left.set()

    def second() -> None:
        with float32_products(tf32=False):
            both.wait()
            first_left.wait()
            seen.append(settings())

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert seen == [("highest", False)]
    assert settings() == ("medium", True)
