"""What trains, what stays in evaluation mode, and towers that start from random weights."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from ltcache.encoder.adapters import (
    AdapterSpec,
    insert_adapters,
    merge_adapters,
    reset_tower,
    set_trainable,
    train_mode,
)
from ltcache.encoder.identity import architecture, tower_digests
from ltcache.errors import EncoderError, UsageError
from tests.encoder.adapters.models import adapted, base_model, context
from tests.encoder.tiny_models import build, tiny_config


def free_names(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def split(model: Any) -> tuple[set[str], set[str]]:
    """Return the names of the parameters of the image and of the text tower."""
    names = {name for name, _ in model.named_parameters()} - {"logit_scale"}
    image = {name for name in names if name.startswith("visual.")}
    return image, names - image


def test_towers_and_the_scale_train_on_their_own() -> None:
    model = base_model("vit")
    image, text = split(model)
    for options, expected in (
        ({}, set()),
        ({"image": "full"}, image),
        ({"text": "full"}, text),
        ({"image": "full", "text": "full", "logit_scale": True}, image | text | {"logit_scale"}),
        ({"logit_scale": True}, {"logit_scale"}),
        ({"image": "bias"}, {name for name in image if name.endswith("bias")}),
        ({"text": "layer_norm"}, {name for name in text if ".ln_" in f".{name}"}),
    ):
        set_trainable(model, **options)  # type: ignore[arg-type]
        assert free_names(model) == expected
    with pytest.raises(UsageError, match="image='half' is none of full"):
        set_trainable(model, image="half")


@pytest.mark.parametrize("kind", ["resnet", "timm_efficientnet", "timm", "embedded_conv"])
def test_layer_norm_means_every_normalisation_of_a_tower(kind: str) -> None:
    model = base_model(kind)
    set_trainable(model, image="layer_norm")
    kinds = (nn.BatchNorm2d, nn.LayerNorm)
    expected = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, kinds) and name.startswith("visual.")
        for part, _ in module.named_parameters()
    }
    assert free_names(model) == expected and expected


@pytest.mark.parametrize("name", ["adaptformer", "lora"])
def test_adapters_always_train_and_their_base_only_if_asked(name: str) -> None:
    model = adapted("vit", name)
    set_trainable(model)
    own = free_names(model)
    assert own and not own & set(base_model("vit").state_dict())
    assert not any(tensor.endswith("original") for tensor in own)
    set_trainable(model, image="full")
    assert free_names(model) - own == {n for n in split(model)[0] if n not in own}


def test_full_training_with_lora_merges_too() -> None:
    model = adapted("vit", "lora")
    set_trainable(model, image="full")
    merge_adapters(model)
    assert set(model.state_dict()) == set(base_model("vit").state_dict())


def test_batch_norms_and_frozen_towers_stay_in_evaluation_mode() -> None:
    model = base_model("embedded_conv")
    set_trainable(model, image="full")
    train_mode(model)
    visual: Any = model.visual
    assert visual.training and not any(
        module.training for module in visual.modules() if isinstance(module, nn.BatchNorm2d)
    )
    assert not model.transformer.training
    before = {n: b.clone() for n, b in visual.named_buffers()}
    visual(torch.randn(2, 3, 96, 96)).sum().backward()
    assert all(torch.equal(b, before[n]) for n, b in visual.named_buffers())
    set_trainable(model, text="bias")
    train_mode(model)
    assert model.transformer.training
    assert not any(module.training for module in visual.modules())


def test_patches_are_not_dropped() -> None:
    config = tiny_config("vit")
    config["vision_cfg"]["patch_dropout"] = 0.5
    model = build(config)
    insert_adapters(model, [AdapterSpec("visual_attention")], context=context())
    set_trainable(model)
    train_mode(model)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.encode_image(images), model.encode_image(images))


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_random_tower_has_the_start_weights_of_its_architecture(kind: str, tower: str) -> None:
    config = tiny_config(kind)
    value = architecture(config, "gelu")
    model, other = build(config, seed=1), build(config, seed=2)
    before = tower_digests(model.state_dict())
    for each in (model, other):
        reset_tower(each, tower, 4, architecture=value)
    after = tower_digests(model.state_dict())
    apart = "text" if tower == "image" else "image"
    assert after[apart] == before[apart] and after[tower] != before[tower]
    assert after[tower] == tower_digests(other.state_dict())[tower]
    assert model.logit_scale.item() == other.logit_scale.item() != pytest.approx(2.66, abs=0.01)
    if tower == "image":  # the first thing that open_clip draws
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            assert tower_digests(open_clip.CLIP(**config).state_dict())["image"] == after["image"]
    reset_tower(model, tower, 5, architecture=value)
    assert tower_digests(model.state_dict())[tower] != after[tower]


def test_a_nested_text_tower_is_reset_too() -> None:
    config = tiny_config("vit")
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**config)
    state: dict[str, Tensor] = {n: t.clone() for n, t in model.state_dict().items()}
    reset_tower(model, "text", 1, architecture=architecture(config, "gelu"))
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, state[n])}
    assert changed and all(name.startswith("text.") for name in changed)
    set_trainable(model, text="full")
    assert free_names(model) == {n for n, _ in model.named_parameters() if n.startswith("text.")}


def test_what_cannot_be_reset_is_refused() -> None:
    value = architecture(tiny_config("vit"), "gelu")
    with pytest.raises(UsageError, match="'images' is none of image, text"):
        reset_tower(base_model("vit"), "images", 0, architecture=value)
    with pytest.raises(EncoderError, match="does not fit"):
        reset_tower(base_model("resnet"), "image", 0, architecture=value)
    for name in ("lora", "adaptformer"):
        with pytest.raises(EncoderError, match="cannot start from random weights"):
            model = base_model("vit")
            config = tiny_config("vit", image_size=64)
            insert_adapters(model, [AdapterSpec(name)], context=context())
            reset_tower(model, "image", 0, architecture=architecture(config, "gelu"))
