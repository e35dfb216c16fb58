"""The identity is that of the function: equal for equal functions, different for others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from ltcache.encoder import Encoder, load_encoder
from ltcache.encoder.identity import (
    canonical_config,
    tensors_digest,
    tokenizer_identity,
    tower_digests,
)
from ltcache.records.identity import canonical_json, differences
from tests.encoder.tiny_models import build, tiny_config, write_folder, write_tiny_clip


def identity(folder: Path | str) -> dict[str, Any]:
    name = folder if isinstance(folder, str) else f"local-dir:{folder}"
    return load_encoder(name, device="cpu").identity


@pytest.fixture(scope="module")
def original(tiny: Callable[..., Encoder]) -> dict[str, Any]:
    return tiny(kind="vit").identity


def test_is_json_and_names_no_path(original: dict[str, Any], tiny_folder: Any) -> None:
    text = canonical_json(original)
    assert json.loads(text) == original
    assert str(tiny_folder(kind="vit")) not in text
    assert set(original) == {"architecture", "towers", "tokenizer", "preprocessing", "dims"}
    assert original["architecture"]["name"] == "ViT 2x32 patch 8 at 32 px, text 1x16"
    assert original["dims"] == {"embedding": 32, "pooled": 32}


def test_loads_of_the_same_weights_by_other_ways_are_equal(
    original: dict[str, Any], tiny_folder: Any, architectures: Any, tmp_path: Path
) -> None:
    folder = tiny_folder(kind="vit")
    safetensors = folder / "open_clip_model.safetensors"
    # beside its record
    by_path = load_encoder("tiny-vit", str(safetensors), device="cpu")
    assert by_path.identity == original
    assert by_path.provenance == {
        "model": "tiny-vit", "pretrained": str(safetensors), "activation": None,
    }  # fmt: skip
    # a training checkpoint elsewhere, as open_clip writes it under DDP, with its own record
    state = open_clip.factory.load_state_dict(str(safetensors))
    epoch = tmp_path / "epoch_3.pt"
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {}}, epoch)
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    assert load_encoder("tiny-vit", str(epoch), device="cpu").identity == original
    # a folder elsewhere whose configuration spells defaults out
    config = tiny_config()
    config["vision_cfg"] |= {"mlp_ratio": 4.0, "pool_type": "tok", "image_size": [32, 32]}
    model = build(tiny_config())
    assert identity(write_folder(tmp_path / "spelt", config, model)) == original
    # the text tower nested, as open_clip does for its newer models
    nested = write_folder(tmp_path / "nested", {**tiny_config(), "custom_text": True}, model)
    assert identity(nested) == original


def test_every_part_of_the_function_is_in_it(original: dict[str, Any], tmp_path: Path) -> None:
    model = build(tiny_config())

    def changed(name: str, config: dict[str, Any], **preprocess: Any) -> set[str]:
        found = identity(write_folder(tmp_path / name, config, model, preprocess))
        return set(differences(original, found))

    assert changed("same", tiny_config()) == set()
    assert changed("quick", tiny_config(quick_gelu=True)) == {"architecture.activation"}
    heads = tiny_config()
    heads["vision_cfg"]["head_width"] = 8
    assert changed("heads", heads) == {"architecture.config.vision.head_width"}
    assert changed("mean", tiny_config(), mean=[0.5, 0.5, 0.5]) == {"preprocessing.mean"}
    assert changed("mode", tiny_config(), resize_mode="squash") == {"preprocessing.resize_mode"}
    assert changed("kind", tiny_config(), interpolation="bilinear") == {
        "preprocessing.interpolation"
    }
    short = tiny_config()
    short["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    assert changed("clean", short) == {"tokenizer.clean"}
    with torch.no_grad():
        model.visual.proj[0, 0] += 1e-6
    assert changed("image", tiny_config()) == {"towers.image"}
    with torch.no_grad():
        model.ln_final.bias[-1] += 1e-6
    assert changed("both", tiny_config()) == {"towers.image", "towers.text"}


def test_the_logit_scale_is_apart(original: dict[str, Any], tmp_path: Path) -> None:
    model = build(tiny_config())
    model.logit_scale.data.fill_(1.0)
    encoder = load_encoder(
        f"local-dir:{write_folder(tmp_path / 'm', tiny_config(), model)}", device="cpu"
    )
    assert encoder.identity == original
    assert encoder.logit_scale == pytest.approx(np.e)
    assert encoder.logit_bias is None


def test_a_logit_bias_is_read(tmp_path: Path) -> None:
    config = {**tiny_config(), "init_logit_bias": -10.0}
    model = build(config)
    model.logit_bias.data.fill_(-9.5)
    encoder = load_encoder(f"local-dir:{write_folder(tmp_path / 'm', config, model)}", device="cpu")
    assert encoder.logit_bias == -9.5


def test_half_precision_weights_on_disk_are_named_as_loaded(tmp_path: Path) -> None:
    model = build(tiny_config())
    whole = write_folder(tmp_path / "whole", tiny_config(), model.half())
    again = write_folder(tmp_path / "again", tiny_config(), model.float())
    assert identity(whole) == identity(again)


def test_random_weights_depend_on_the_seed_only(architectures: Any) -> None:
    torch.manual_seed(5)
    first = load_encoder("tiny-vit", "random:1", device="cpu")
    after = torch.rand(1)
    second = load_encoder("tiny-vit,random:1", device="cpu")
    other = load_encoder("tiny-vit", "random:2", device="cpu")
    assert first.identity == second.identity
    assert first.provenance["pretrained"] == second.provenance["pretrained"] == "random:1"
    assert set(differences(first.identity, other.identity)) == {"towers.image", "towers.text"}
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "loading must not touch the caller's random state"


def test_tensor_digests_see_name_shape_dtype_and_bytes() -> None:
    base = {"a": torch.arange(6.0), "b": torch.zeros(())}
    same = {"b": torch.zeros(()), "a": torch.arange(12.0)[:6]}
    assert tensors_digest(base) == tensors_digest(same)
    for other in (
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"].view(2, 3), "b": base["b"]},
        {"a": base["a"].view(torch.int32), "b": base["b"]},
        {"a": base["a"].flip(0), "b": base["b"]},
        {"a": base["a"]},
        {"a": base["a"], "b": torch.zeros(0)},
    ):
        assert tensors_digest(base) != tensors_digest(other)
    columns = torch.arange(6.0).view(2, 3).T
    assert tensors_digest({"a": columns}) == tensors_digest({"a": columns.contiguous()})


def test_towers_leave_out_scale_bias_and_caption_decoder() -> None:
    state = {"visual.a": torch.ones(1), "text.b": torch.ones(2), "logit_scale": torch.ones(())}
    flat = {"visual.a": torch.ones(1), "b": torch.ones(2), "text_decoder.x": torch.ones(3)}
    assert tower_digests(state) == tower_digests(flat)


def test_every_architecture_of_open_clip_has_a_canonical_form() -> None:
    forms = {
        name: canonical_json(canonical_config(open_clip.get_model_config(name)))
        for name in open_clip.list_models()
    }
    assert len(forms) > 100
    assert forms["ViT-B-32"] == forms["ViT-B-32-quickgelu"]  # told apart by "activation"
    assert forms["ViT-B-32"] != forms["ViT-B-16"]


class _Inner:
    """What a tokenizer of transformers shows."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.pad_token_id = 1

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


class _Outer:
    context_length = 64
    clean_fn = staticmethod(str.lower)
    strip_sep_token = True

    def __init__(self, words: list[str]) -> None:
        self.tokenizer = _Inner(words)


def test_tokenizers_of_transformers_are_told_apart_by_their_vocabulary() -> None:
    first, second = tokenizer_identity(_Outer(["a", "b"])), tokenizer_identity(_Outer(["b", "a"]))
    assert set(differences(first, second)) == {"vocabulary"}
    assert first["class"] == "_Outer"
    assert first["strip_sep_token"] is True
    canonical_json(first)


def test_equal_arguments_write_equal_files(tmp_path: Path) -> None:
    first, second = (write_tiny_clip(tmp_path / name, kind="resnet") for name in "ab")
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()
