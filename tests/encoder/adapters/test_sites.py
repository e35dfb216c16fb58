"""Where adapters act, and what each computes: against the formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from ltcache.encoder.adapters import AdapterSpec, insert_adapters, set_trainable, sites_of
from ltcache.encoder.adapters.adaptformer import BottleneckAdapter, lift_bottleneck
from ltcache.encoder.adapters.lora import LowRank
from ltcache.encoder.adapters.sg_adapter import GuidanceAttention
from ltcache.encoder.adapters.visual_attention import VisualAttention
from ltcache.encoder.rest import ends_in_a_map
from ltcache.errors import EncoderError, UsageError
from tests.encoder.adapters.models import (
    CLASSES,
    DIM,
    adapted,
    base_model,
    context,
    disturb,
    images_for,
)


def doubled(kind: str) -> tuple[Any, list[nn.Linear]]:
    """Return a model in float64 with a linear map at each site."""
    torch.manual_seed(0)
    model = base_model(kind).double()
    maps = [nn.Linear(site.width, site.width).double() for site in sites_of(model.visual)]
    for site, delta in zip(sites_of(model.visual), maps, strict=True):
        site.add(delta)
    return model, maps


@torch.no_grad()
def test_a_vits_delta_is_beside_the_mlp() -> None:
    model, maps = doubled("vit")
    plain = base_model("vit").double().visual
    images = images_for(model).double()
    x = plain._embeds(images)
    for block, delta in zip(plain.transformer.resblocks, maps, strict=True):
        x = x + block.ls_1(block.attention(block.ln_1(x)))
        x = x + block.ls_2(block.mlp(block.ln_2(x))) + delta(x)
    expected = plain._pool(x)[0] @ plain.proj
    torch.testing.assert_close(model.encode_image(images), expected)


@torch.no_grad()
def test_a_timm_vits_delta_is_beside_the_mlp() -> None:
    model, maps = doubled("timm_vit")
    plain = base_model("timm_vit").double().visual
    images = images_for(model).double()
    trunk = plain.trunk
    x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
    for block, delta in zip(trunk.blocks, maps, strict=True):
        x = x + block.ls1(block.attn(block.norm1(x)))
        x = x + block.ls2(block.mlp(block.norm2(x))) + delta(x)
    expected = plain.head(trunk.forward_head(trunk.norm(x)))
    torch.testing.assert_close(model.encode_image(images), expected)


@torch.no_grad()
def test_a_resnets_delta_follows_every_bottleneck() -> None:
    model, maps = doubled("resnet")
    plain = base_model("resnet").double().visual
    images = images_for(model).double()
    x, rest = plain.stem(images), list(maps)
    for layer in (plain.layer1, plain.layer2, plain.layer3, plain.layer4):
        for block in layer:
            x = block(x)
            x = x + rest.pop(0)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert not rest
    torch.testing.assert_close(model.encode_image(images), plain.attnpool(x))


@pytest.mark.parametrize(
    ("kind", "count", "parallel"),
    [("vit", 2, True), ("resnet", 4, False), ("timm", 9, False), ("timm_efficientnet", 5, False),
     ("timm_vit", 6, True), ("embedded_vit", 6, True), ("embedded_conv", 16, False)],
)  # fmt: skip
def test_every_block_is_found(kind: str, count: int, parallel: bool) -> None:
    sites = sites_of(base_model(kind).visual)
    assert len(sites) == count
    assert {site.parallel for site in sites} == {parallel}


@pytest.mark.parametrize(
    ("name", "count"), [("swin_tiny_patch4_window7_224", 12), ("swinv2_cr_tiny_224", None)]
)
def test_maps_with_channels_last_are_not_taken_for_others(name: str, count: int | None) -> None:
    with torch.device("meta"):  # shapes alone: its weights are 28 million
        visual = TimmModel(name, DIM, image_size=224, pool="avg", proj="linear").eval()
    assert not ends_in_a_map(visual.trunk)
    with pytest.raises(EncoderError, match="no place in this image tower: timm Swin"):
        VisualAttention(visual, seed=0, context=context())
    if count is not None:
        assert [site.parallel for site in sites_of(visual)] == [True] * count
    else:  # its norm follows the MLP, its blocks give (N, H, W', W)
        with pytest.raises(EncoderError, match="do not know the blocks"):
            sites_of(visual)


@pytest.mark.parametrize(
    ("classes", "blocks", "expected"),
    [(1000, 12, 32), (365, 12, 8), (8142, 12, 256), (100, 12, 4), (2, 12, 1)],
)  # the first four: LIFT's configurations for ViT-B/16
def test_lifts_bottleneck(classes: int, blocks: int, expected: int) -> None:
    assert lift_bottleneck(classes, blocks) == expected
    model = base_model("vit")
    with pytest.raises(UsageError, match="number of classes"):
        insert_adapters(model, [AdapterSpec("adaptformer")])


@torch.no_grad()
def test_a_bottleneck_is_lifts() -> None:
    generator = torch.Generator().manual_seed(0)
    block = BottleneckAdapter(48, 6, generator).double()
    x = torch.randn(2, 5, 48, generator=generator).double()
    assert not block(x).any() and block.scale.item() == 1
    assert block.down.weight.var().item() == pytest.approx(1 / (3 * 48), rel=0.3)
    for parameter in block.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator).double())
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    normed = (x - mean) / (variance + 1e-5).sqrt() * block.norm.weight + block.norm.bias
    inner = (normed @ block.down.weight.T + block.down.bias).clamp(min=0)
    expected = (inner @ block.up.weight.T + block.up.bias) * block.scale
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def test_guidance_is_attention_over_the_texts() -> None:
    generator = torch.Generator().manual_seed(0)
    block = GuidanceAttention(48, 20, 6, generator).double()
    x = torch.randn(2, 5, 48, generator=generator).double()
    texts = torch.randn(7, 20, generator=generator).double()
    assert not block(x, texts).any()
    for parameter in block.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator).double())
    queries = block.norm(x) @ block.query.weight.T
    keys, values = texts @ block.key.weight.T, texts @ block.value.weight.T
    weights = torch.softmax(queries @ keys.T / 6**0.5, dim=-1)
    assert weights.shape == (2, 5, 7)
    expected = weights @ values @ block.output.weight.T
    torch.testing.assert_close(block(x, texts), expected)


def test_descriptions_are_centred_and_scaled_and_a_saved_buffer_replaces_them() -> None:
    texts = adapted("vit", "sg_adapter").visual.adapters["sg_adapter"].texts
    assert texts.shape == (CLASSES, DIM) and not texts.requires_grad
    torch.testing.assert_close(texts.mean(dim=0), torch.zeros(DIM), atol=1e-6, rtol=0)
    assert texts.square().mean().item() == pytest.approx(1)
    given = context().descriptions
    assert given is not None
    unit = given / given.norm(dim=1, keepdim=True)
    for i, j in ((0, 1), (3, 8)):
        wanted = (unit[i] - unit[j]).norm() / (unit[2] - unit[5]).norm()
        found = (texts[i] - texts[j]).norm() / (texts[2] - texts[5]).norm()
        torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_a_change_of_stacked_weights_is_one_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 5, generator=generator)
    change = LowRank(weight, 3, 2, 4.0, generator)
    assert torch.equal(change(weight), weight)
    change.up.normal_(generator=generator)
    expected = [
        part + 2.0 * change.up[i] @ change.down[i] for i, part in enumerate(weight.chunk(3))
    ]
    torch.testing.assert_close(change(weight), torch.cat(expected))
    kernel = torch.randn(6, 4, 3, 3, generator=generator)
    change = LowRank(kernel, 1, 8, 8.0, generator)
    assert change.up.shape == (1, 6, 6), "no rank above that of the weight"
    change.up.normal_(generator=generator)
    assert torch.linalg.matrix_rank((change(kernel) - kernel).flatten(1)) == 6


def test_lora_leaves_the_mlp_alone_unless_asked() -> None:
    def changed(**options: Any) -> set[str]:
        state = adapted("vit", "lora", **options).state_dict()
        return {
            n.split("resblocks.0.")[1].split(".")[0]
            for n in state
            if "resblocks.0." in n and "parametrizations" in n
        }

    assert changed(mlp=False) == {"attn"}
    assert changed(mlp=True) == {"attn", "mlp"}


def test_the_class_token_enters_the_last_block_as_it_was() -> None:
    model = adapted("vit", "visual_attention")
    set_trainable(model)
    disturb(model)
    seen: list[Tensor] = []
    last = model.visual.transformer.resblocks[-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # behind the gate
    images = images_for(model)
    with torch.no_grad():
        model.encode_image(images)
        plain = base_model("vit").visual
        tokens = plain.transformer.resblocks[0](plain._embeds(images))
    assert torch.equal(seen[0][:, 0], tokens[:, 0])
    assert not torch.allclose(seen[0][:, 1:], tokens[:, 1:])


@pytest.mark.parametrize(
    ("kind", "stacked", "single"),
    [("vit", "attn.parametrizations.in_proj_weight", "attn.out_proj.parametrizations.weight"),
     ("timm_vit", "attn.qkv.parametrizations.weight", "attn.proj.parametrizations.weight")],
)  # fmt: skip
def test_query_key_and_value_have_changes_of_their_own(
    kind: str, stacked: str, single: str
) -> None:
    state = adapted(kind, "lora", mlp=False).state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items() if name.endswith(".0.up")}
    width = sites_of(base_model(kind).visual)[0].width
    assert {tuple(s) for n, s in shapes.items() if stacked in n} == {(3, width, 2)}
    assert {tuple(s) for n, s in shapes.items() if single in n} == {(1, width, 2)}
    assert all(stacked in name or single in name for name in shapes)
