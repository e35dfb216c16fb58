"""The encoder that a record names: when it is loaded, and whose the recorded activation is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ltcache.encoder import (
    Encoder,
    EncoderChoice,
    encoder_of_cache,
    load_encoder,
    portable,
    recorded_encoder,
)
from ltcache.encoder.load import load_chosen
from ltcache.errors import IdentityError, UsageError

RANDOM = {"model": "tiny-vit", "pretrained": "random:0", "activation": "quick_gelu"}


def loaded(named: dict[str, Any], *choice: str | None) -> Encoder:
    return recorded_encoder(named, "the cache", EncoderChoice(*choice, device="cpu"))


def activation_of(encoder: Encoder) -> str:
    return str(encoder.identity["architecture"]["activation"])


@pytest.mark.parametrize("choice", [(), ("tiny-vit", "random:0"), (None, "random:1")])
def test_a_recorded_activation_holds_for_the_recorded_model(
    architectures: Any, choice: tuple[str, ...]
) -> None:
    encoder = loaded(RANDOM, *choice)
    assert encoder.provenance == {
        **RANDOM,
        "pretrained": choice[1] if choice else "random:0",
    }
    assert activation_of(encoder) == "quick_gelu"


@pytest.mark.parametrize(
    ("choice", "recorded", "own"),
    [
        (("tiny-vit", "random:1"), "quick_gelu", "gelu"),
        (("tiny-vit-quickgelu", "random:0"), "gelu", "quick_gelu"),
    ],
)
def test_it_is_not_forced_on_another_model_that_the_user_names(
    architectures: Any, choice: tuple[str, ...], recorded: str, own: str
) -> None:
    other = loaded({**RANDOM, "activation": recorded}, *choice)
    assert activation_of(other) == own
    assert other.provenance["activation"] is None


@pytest.mark.parametrize("recorded", [("tiny-vit,random:0", None), ("tiny-vit", "random:0")])
@pytest.mark.parametrize("given", [("tiny-vit, random:0",), ("tiny-vit", "random:0")])
def test_a_model_and_its_weights_in_one_word_are_the_same_two(
    architectures: Any, recorded: tuple[str, str | None], given: tuple[str, ...]
) -> None:
    named = {"model": recorded[0], "pretrained": recorded[1], "activation": "quick_gelu"}
    assert activation_of(loaded(named, *given)) == "quick_gelu"


def test_what_the_user_says_goes_before_the_record(architectures: Any) -> None:
    assert activation_of(loaded(RANDOM, None, None, "gelu")) == "gelu"
    assert activation_of(loaded(RANDOM, "tiny-vit", "random:0", "gelu")) == "gelu"


def test_a_model_in_a_folder_is_the_recorded_one_wherever_the_folder_is(
    tiny_folder: Callable[..., Path], tmp_path: Path, architectures: Any
) -> None:
    weights = tmp_path / "weights.safetensors"
    shutil.copy(next(tiny_folder(kind="vit").glob("*.safetensors")), weights)
    made = load_encoder("tiny-vit", str(weights), device="cpu", activation="gelu")
    named = portable(made.provenance)
    assert named == {"model": "tiny-vit", "pretrained": "weights.safetensors", "activation": "gelu"}
    again = loaded(named, "tiny-vit", str(weights))  # says nothing of the activation itself
    assert again.identity == made.identity
    with pytest.raises(UsageError, match="keeps no folders: name it with --model"):
        loaded(named)


def test_what_was_imported_names_no_encoder() -> None:
    with pytest.raises(UsageError, match="the cache: its features were imported"):
        loaded({"model": None, "pretrained": None, "activation": None})


def test_the_encoder_of_a_cache_is_the_one_that_made_it(architectures: Any) -> None:
    made = load_chosen(EncoderChoice(**RANDOM, device="cpu"))
    cache: Any = SimpleNamespace(
        provenance=made.provenance, encoder=made.identity, path=Path("features")
    )
    assert encoder_of_cache(cache).identity == made.identity
    assert encoder_of_cache(cache, made) is made
    with pytest.raises(IdentityError, match="encoder that made features with --model"):
        encoder_of_cache(cache, EncoderChoice("tiny-vit", "random:1", device="cpu"))
