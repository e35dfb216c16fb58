"""What the encoder returns is what plain open_clip returns."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import EncoderError, UsageError
from ltcache.finetune.step import FieldEmbedder
from ltcache.images import decode
from tests.encoder.tiny_models import KINDS, build, tiny_config, write_folder
from tests.pretended_device import CUDA, pretended_device


def pixels_for(encoder: Encoder, count: int = 5, seed: int = 0) -> torch.Tensor:
    size = (count, 3, *encoder.preprocessing.size)
    return torch.randint(
        0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def plain(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder.model.encode_image(encoder.preprocessing.normalise(pixels))


def write_variant(folder: Path, vision: dict[str, Any], seed: int = 0, **more: Any) -> Path:
    kind = "timm" if "timm_model_name" in vision else "vit"
    config = {**tiny_config(kind), **more}
    config["vision_cfg"] = {**config["vision_cfg"], **vision}
    return write_folder(folder, config, build(config, seed))


def assert_same(encoder: Encoder, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Bit for bit; convolutions in channels-last sum in another order, far below float16."""
    if encoder.numerics()["memory_format"] == "contiguous":
        assert torch.equal(found, expected)
    else:
        assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_equals_plain_open_clip_from_the_image_file(
    kind: str, tiny_folder: Callable[..., Path], tiny: Callable[..., Encoder]
) -> None:
    """The whole way: decode, preprocess, normalise, encode; bit for bit."""
    folder = f"local-dir:{tiny_folder(kind=kind)}"
    model, preprocess = open_clip.create_model_from_pretrained(folder)
    model.eval()
    encoder = tiny(kind=kind)
    rng = np.random.default_rng(0)
    for size in [(48, 70), (70, 33), (32, 32), (20, 25)]:
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        file = io.BytesIO()
        image.save(file, "png")
        decoded = decode(file.getvalue(), encoder.preprocessing).pixels
        found = encoder.encode_images(torch.from_numpy(decoded.copy())[None])
        with torch.no_grad():
            expected = model.encode_image(preprocess(image)[None])
        assert_same(encoder, found["embedding"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_normalisation_is_bitwise_that_of_torchvision(
    kind: str, tiny: Callable[..., Encoder]
) -> None:
    from torchvision.transforms import Normalize

    encoder = tiny(kind=kind)
    mean, std = encoder.preprocessing.mean, encoder.preprocessing.std
    pixels = torch.arange(1024).to(torch.uint8).view(1, 1, 32, 32).repeat(2, 3, 1, 1)
    reference = Normalize(mean, std)(pixels.float().div(255))
    assert torch.equal(encoder.preprocessing.normalise(pixels), reference)
    with torch.no_grad():
        expected = encoder.model.encode_image(reference)
    assert torch.equal(encoder.encode_images(pixels)["embedding"], expected)


def test_a_gpu_normalises_to_the_same_bits(tiny_folder: Callable[..., Path]) -> None:
    """CUDA takes a division by a number for a product with its reciprocal, one bit off."""
    pixels = torch.arange(1024).to(torch.uint8).view(1, 1, 32, 32).repeat(2, 3, 1, 1)
    seen: list[Any] = []

    def noted(images: Any) -> dict[str, torch.Tensor]:
        seen.append(images.inner)
        return {}

    with pretended_device():
        encoder = load_encoder(f"local-dir:{tiny_folder(kind='vit')}", device="cuda")
        encoder._fields = noted  # type: ignore[assignment]
        encoder.forward_fields(pixels.to(CUDA))
        FieldEmbedder(None, noted, (), encoder.preprocessing, device=CUDA)(pixels.to(CUDA))
    expected = encoder.preprocessing.normalise(pixels)
    assert all(torch.equal(images, expected) for images in seen) and len(seen) == 2


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"no_ln_pre": True, "pos_embed_type": "sin_cos_2d"},
        {"ls_init_value": 0.5, "patch_dropout": 0.5},
        {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 3},
        {"qk_norm": True},
        {"timm_proj_bias": True},
        {"timm_proj": None},
        {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None, "image_size": 160},
        {"timm_model_name": "test_resnet", "timm_proj": None},
    ],
    ids=str,
)
def test_pooled_times_projection_is_the_embedding(vision: dict[str, Any], tmp_path: Path) -> None:
    if any(key.startswith("timm") for key in vision):
        vision = {"timm_model_name": "test_convnext", **vision}
    encoder = load_encoder(f"local-dir:{write_variant(tmp_path / 'm', vision)}", device="cpu")
    pixels = pixels_for(encoder)
    found = encoder.encode_images(pixels)
    assert torch.equal(found["embedding"], plain(encoder, pixels))
    assert encoder.projection is not None
    assert encoder.projection.shape == (encoder.dims["pooled"], encoder.dims["embedding"])
    assert encoder.projection.dtype == np.float32
    product = found["pooled"].numpy() @ encoder.projection
    if encoder.projection_bias is not None:
        product = product + encoder.projection_bias
    scale = np.abs(found["embedding"].numpy()).max()
    np.testing.assert_allclose(product, found["embedding"].numpy(), atol=2e-6 * max(scale, 1))
    assert found["pooled"].std() > 0


@pytest.mark.parametrize(
    ("vision", "dims"),
    [
        ({"timm_proj": "mlp"}, {"embedding": 32, "pooled": 64}),
        ({"timm_proj": "none"}, {"embedding": 64}),
    ],
    ids=str,
)
def test_timm_towers_without_a_single_projection(
    vision: dict[str, Any], dims: dict[str, int], tmp_path: Path
) -> None:
    folder = write_variant(tmp_path / "m", {"timm_model_name": "test_convnext", **vision})
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    pixels = pixels_for(encoder)
    found = encoder.encode_images(pixels)
    assert {name: tensor.shape[1] for name, tensor in found.items()} == encoder.dims
    assert encoder.dims == dims
    assert encoder.projection is None
    assert torch.equal(found["embedding"], plain(encoder, pixels))


def test_coca_gives_embeddings_that_are_not_normalised(tmp_path: Path) -> None:
    config: dict[str, Any] = tiny_config()
    config["vision_cfg"] |= {
        "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 4,
        "output_tokens": True,
    }  # fmt: skip
    config["text_cfg"] |= {"embed_cls": True, "output_tokens": True, "context_length": 76}
    config["multimodal_cfg"] = {
        "context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    model = open_clip.CoCa(**config)
    folder = write_folder(tmp_path / "coca", {**config, "custom_text": True}, model)
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    pixels = pixels_for(encoder)
    found = encoder.encode_images(pixels)
    with torch.no_grad():
        images = encoder.preprocessing.normalise(pixels)
        expected = encoder.model.encode_image(images, normalize=False)
        words = encoder.model.encode_text(encoder.tokenizer(["a cat"]), normalize=False)
    assert list(found) == ["embedding"]
    assert torch.equal(found["embedding"], expected)
    assert torch.equal(encoder.encode_texts(["a cat"]), words)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_random_models_of_open_clip(name: str) -> None:
    encoder = load_encoder(name, "random:3", device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = open_clip.create_model(name).eval()
    pixels = pixels_for(encoder, 3)
    found = encoder.encode_images(pixels)
    with torch.no_grad():
        expected = model.encode_image(encoder.preprocessing.normalise(pixels))
    assert_same(encoder, found["embedding"], expected)
    if name == "RN50":
        assert encoder.dims == {"embedding": 1024}
        return
    assert encoder.dims == {"embedding": 512, "pooled": 768}
    product = found["pooled"].numpy() @ encoder.projection
    np.testing.assert_allclose(product, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_close_and_returns_float32(kind: str, tiny_folder: Callable[..., Path]) -> None:
    folder = f"local-dir:{tiny_folder(kind=kind)}"
    full = load_encoder(folder, device="cpu")
    half = load_encoder(folder, device="cpu", precision="bf16")
    pixels = pixels_for(full)
    for name, expected in full.encode_images(pixels).items():
        found = half.encode_images(pixels)[name]
        assert found.dtype == torch.float32
        assert torch.cosine_similarity(found, expected).min() > 0.999
    texts = ["a cat", "two dogs"]
    similar = torch.cosine_similarity(half.encode_texts(texts), full.encode_texts(texts))
    assert similar.min() > 0.999
    assert half.identity == full.identity
    assert half.numerics() != full.numerics()


def test_fields_can_be_chosen_and_unknown_ones_are_refused(tiny: Callable[..., Encoder]) -> None:
    encoder = tiny(kind="vit")
    pixels = pixels_for(encoder)
    assert list(encoder.encode_images(pixels, ["pooled"])) == ["pooled"]
    assert list(encoder.encode_images(pixels)) == ["embedding", "pooled"]
    with pytest.raises(UsageError, match="no field 'token': embedding, pooled"):
        encoder.encode_images(pixels, ["token"])
    resnet = tiny(kind="resnet")
    with pytest.raises(UsageError, match=r"no field 'pooled' \(its projection is inside"):
        resnet.encode_images(pixels, ["pooled"])


@pytest.mark.parametrize(
    "pixels",
    [torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)],
    ids=["float", "size"],
)
def test_pixels_of_another_kind_are_refused(
    pixels: torch.Tensor, tiny: Callable[..., Encoder]
) -> None:
    with pytest.raises(UsageError, match=r"not torch.uint8 \(N, 3, 32, 32\)"):
        tiny(kind="vit").encode_images(pixels)


def test_features_can_take_part_in_training(tiny: Callable[..., Encoder]) -> None:
    encoder = tiny(kind="vit")
    weight = torch.zeros(encoder.dims["embedding"], 2, requires_grad=True)
    found = encoder.encode_images(pixels_for(encoder))["embedding"]
    (found @ weight).sum().backward()
    (encoder.encode_texts(["a"]) @ weight).sum().backward()
    assert weight.grad is not None
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_get_their_own_features(kind: str, tiny: Callable[..., Encoder]) -> None:
    encoder = tiny(kind=kind)
    batches = [pixels_for(encoder, 4, seed) for seed in range(2)]
    expected = [encoder.encode_images(batch) for batch in batches]
    wrong: list[str] = []

    def work(number: int) -> None:
        for _ in range(20):
            found = encoder.encode_images(batches[number])
            wrong.extend(n for n in found if not torch.equal(found[n], expected[number][n]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_tower_that_gives_a_map_is_refused(tmp_path: Path) -> None:
    folder = write_variant(tmp_path / "m", {"pool_type": "none"})
    with pytest.raises(EncoderError, match="not one vector"):
        load_encoder(f"local-dir:{folder}", device="cpu")


def test_numerics_name_what_bits_depend_on(tiny: Callable[..., Encoder]) -> None:
    numerics = tiny(kind="vit").numerics()
    assert numerics["precision"] == "fp32"
    assert numerics["device"] == "cpu"
    assert numerics["threads"] == torch.get_num_threads()
    assert set(numerics["versions"]) == {
        "torch", "torchvision", "open_clip_torch", "Pillow", "numpy",
    }  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_agrees_with_the_cpu(
    kind: str, precision: str, tiny_folder: Callable[..., Path], tiny: Callable[..., Encoder]
) -> None:
    encoder = load_encoder(
        f"local-dir:{tiny_folder(kind=kind)}", device="cuda", precision=precision
    )
    batches = [pixels_for(encoder, 4, seed) for seed in range(3)]
    pending = [encoder.submit(batch) for batch in batches]  # all in flight at once
    for batch, waiting in zip(batches, pending, strict=True):
        found = waiting.result()
        for name, expected in tiny(kind=kind).encode_images(batch).items():
            assert found[name].dtype == torch.float32
            assert found[name].device.type == "cpu"
            assert torch.cosine_similarity(found[name], expected).min() > 0.999
    assert encoder.identity == tiny(kind=kind).identity
    assert encoder.numerics()["device"] == "cuda"
