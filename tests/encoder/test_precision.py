"""TF32 as a precision: a setting of the whole process that lasts for the encoder's work alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from ltcache.encoder import load_encoder
from ltcache.encoder.device import products_in, require_precision
from ltcache.errors import UsageError
from tests.encoder.test_exactness import pixels_for
from tests.pretended_device import pretended_device


def settings() -> tuple[str, bool]:
    """Return what products and convolutions may do now."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_products_are_made_in_tf32_while_images_and_texts_are_encoded(
    tiny_folder: Callable[..., Path],
) -> None:
    before, seen = settings(), []
    with pretended_device():
        encoder = load_encoder(
            f"local-dir:{tiny_folder(kind='vit')}", device="cuda", precision="tf32"
        )
        plain, texts = encoder._fields.__class__.__call__, encoder.model.encode_text

        def noted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*values: Any, **more: Any) -> Any:
                seen.append(settings())
                return function(*values, **more)

            return call

        with (
            mock.patch.object(type(encoder._fields), "__call__", noted(plain)),
            mock.patch.object(encoder.model, "encode_text", noted(texts)),
        ):
            found = encoder.encode_images(pixels_for(encoder, 2, 0))
            encoder.encode_texts(["a fox"])
        numerics = encoder.numerics()
    assert seen == [("high", True)] * 2
    assert settings() == before
    assert all(values.dtype == torch.float32 for values in found.values())
    assert numerics["precision"] == "tf32"
    assert numerics["tf32"] == {"matmul": "high", "convolution": True}


def test_settings_are_restored_after_an_error() -> None:
    before = settings()
    with pytest.raises(ZeroDivisionError), products_in("tf32"):
        raise ZeroDivisionError
    assert settings() == before


def test_fp32_has_all_digits_and_half_precisions_leave_the_process_alone() -> None:
    before = settings()
    with products_in("fp32"):
        assert settings() == ("highest", False)
    with products_in("bf16"), products_in("fp16"):
        assert settings() == before
    assert settings() == before


def test_numerics_of_fp32_tell_that_convolutions_have_all_digits(
    tiny_folder: Callable[..., Path],
) -> None:
    with pretended_device():
        encoder = load_encoder(f"local-dir:{tiny_folder(kind='vit')}", device="cuda")
        assert encoder.numerics()["tf32"] == {"matmul": "highest", "convolution": False}


def test_what_does_not_compute_in_it_is_refused(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="cpu would compute in float32: use 'fp32'"):
        load_encoder(f"local-dir:{tiny_folder(kind='vit')}", device="cpu", precision="tf32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    with pytest.raises(UsageError, match="from Ampere on"):
        require_precision("tf32", torch.device("cuda"))
