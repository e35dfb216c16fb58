"""TIN end to end with frozen towers is the attention head on cached tokens: the same scores and
the same gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from ltcache.encoder import Encoder, build_rest, load_encoder
from ltcache.encoder.adapters import AdapterSpec, insert_adapters, set_trainable, train_mode
from ltcache.heads import HEADS, HeadContext, TokenMap
from tests.encoder.tiny_models import write_tiny_clip

CLASSES = 5
OPTIONS = {"kernel": 9, "dilation": 3}


@pytest.fixture(scope="module", params=["vit", "resnet", "timm"])
def fresh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Encoder]:
    """Return a function that loads a tiny encoder anew; its maps are 8 x 8, 4 x 4 and 4 x 4."""
    edge = {"vit": 64, "resnet": 128, "timm": 128}[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "model"
    write_tiny_clip(folder, kind=request.param, image_size=edge)
    return lambda: load_encoder(f"local-dir:{folder}", device="cpu")


def test_end_to_end_equals_the_head_on_cached_tokens(fresh: Callable[[], Encoder]) -> None:
    cached, tuned = fresh(), fresh()
    edge = cached.preprocessing.size[0]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, edge, edge), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0, 3, 1, 4])
    tokens = cached.encode_images(pixels, ("tokens",))["tokens"]
    rest = build_rest(cached.identity, cached.rest())
    width = rest(tokens[:1]).shape[1]
    texts = F.normalize(torch.randn(CLASSES, width, generator=generator), dim=1)
    head = HEADS["visual_attention"](
        HeadContext(
            tokens.shape[2],
            CLASSES,
            torch.ones(CLASSES),
            text_features=texts,
            tokens=TokenMap(rest.grid, rest.class_token, width, rest),
        ),
        scale=20.0,
        **OPTIONS,
    )

    model = copy.deepcopy(tuned.model)  # with the hooks of an encoder
    insert_adapters(model, [AdapterSpec("visual_attention", OPTIONS)])
    set_trainable(model)
    train_mode(model)
    adapter = model.visual.adapters["visual_attention"]
    with torch.no_grad():
        head.set_weight(texts)
        for name, parameter in adapter.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            head.get_parameter(name).copy_(parameter)

    images = pixels.float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in
                 (tuned.preprocessing.mean, tuned.preprocessing.std))  # fmt: skip
    embedding = model.encode_image((images - mean) / std)
    whole = 20.0 * F.normalize(embedding, dim=1) @ texts.T
    parts = head(tokens)
    plain = 20.0 * F.normalize(rest(tokens), dim=1) @ texts.T
    assert (whole - plain).abs().max() > 0.01, "the gate does something"
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    F.cross_entropy(whole, labels).backward()
    F.cross_entropy(parts, labels).backward()
    for name, parameter in adapter.named_parameters():
        found, expected = parameter.grad, head.get_parameter(name).grad
        assert found is not None and expected is not None and expected.any()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-4 * expected.abs().max())
