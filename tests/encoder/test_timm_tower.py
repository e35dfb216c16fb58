"""Image-only towers of timm: timm's own features, strict weights, every refusal with its remedy."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from ltcache.encoder import EncoderChoice, ImageTower, load_encoder
from ltcache.encoder.recorded import portable
from ltcache.encoder.timm_tower import TimmSource, preprocessing_of_tower, resolve_tower
from ltcache.errors import EncoderError, LtcacheError, UsageError
from ltcache.images import decode
from ltcache.texts import encode_prompts

SMALL = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


def load(model: str, pretrained: str | Path | None = None, **options: Any) -> Any:
    named = None if pretrained is None else str(pretrained)
    return load_encoder(model, named, **{"device": "cpu", **options})


def refused(*arguments: Any, error: type[LtcacheError] = EncoderError, **options: Any) -> str:
    with pytest.raises(error) as info:
        load(*arguments, **options)
    return str(info.value)


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def plain(name: str, state: dict[str, torch.Tensor]) -> Any:
    """Return timm's own model without a classifier, with these weights."""
    model = timm.create_model(name, num_classes=0).eval()
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return a folder with the weights of one classifier of 7 classes in several forms."""
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=7)
    for tensor in model.buffers():  # running statistics as after training
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    state = model.state_dict()
    folder = tmp_path_factory.mktemp("weights")
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pth")
    averaged = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": {}, "state_dict_ema": averaged, "epoch": 3}, folder / "train.pth.tar")
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    save_file(bare, folder / "bare.safetensors")
    return folder, bare


# -- features -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SMALL, "resnet18", "vit_tiny_patch16_224"])
def test_features_are_timms_after_its_own_transform(name: str) -> None:
    encoder = load(f"timm:{name}", "random:4")
    reference = plain(name, encoder.model.visual.state_dict())
    transform = create_transform(**resolve_data_config({}, model=reference), is_training=False)
    images = [photo(300, 200), photo(90, 330, "L"), photo(250, 250, "P")]
    expected = reference(torch.stack([transform(image.convert("RGB")) for image in images]))
    pixels = []
    for image in images:
        image.save(buffer := io.BytesIO(), "PNG")
        pixels.append(decode(buffer.getvalue(), encoder.preprocessing).pixels)
    found = encoder.encode_images(torch.from_numpy(np.stack(pixels)))
    assert list(found) == ["pooled"] == list(encoder.dims)
    torch.testing.assert_close(found["pooled"], expected.detach(), rtol=1e-4, atol=1e-5)
    assert encoder.projection is None and encoder.token_shape is None
    assert encoder.logit_scale is None and encoder.logit_bias is None


def test_the_identity_is_of_one_tower_and_of_no_name(whole: tuple[Path, Any]) -> None:
    folder, _ = whole
    encoder = load("timm:test_resnet", "random:1")
    assert set(encoder.identity["towers"]) == {"image"}
    assert encoder.identity["tokenizer"] is None
    assert encoder.identity["dims"] == encoder.dims
    assert encoder.identity["preprocessing"]["crop_pct"] == 0.95
    assert json.loads(json.dumps(encoder.identity)) == encoder.identity
    tagged = load("timm:test_resnet.r160_in1k", "random:1")
    assert tagged.identity == encoder.identity
    assert load("timm:test_resnet", "random:2").identity != encoder.identity
    forms = ("w.safetensors", "w.pth", "train.pth.tar", "bare.safetensors")
    identities = [load("timm:test_resnet", folder / name).identity for name in forms]
    assert all(identity == identities[0] for identity in identities)
    assert identities[0]["towers"] != encoder.identity["towers"]
    versions = encoder.numerics()["versions"]
    assert versions["timm"] == timm.__version__ and "open_clip_torch" not in versions


def test_as_a_module_in_bf16_and_without_texts() -> None:
    encoder = load("timm:test_vit", "random:0")
    images = torch.randn(2, 3, *encoder.preprocessing.size)
    assert torch.equal(ImageTower(encoder, "pooled")(images), encoder.model.visual(images))
    half = load("timm:test_vit", "random:0", precision="bf16")
    assert half.identity == encoder.identity
    pixels = torch.randint(0, 256, (2, 3, *encoder.preprocessing.size), dtype=torch.uint8)
    found = [e.encode_images(pixels)["pooled"].flatten() for e in (encoder, half)]
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99
    with pytest.raises(UsageError, match="timm test_vit at 160 px has no text tower"):
        encode_prompts(encoder, [["a"]])
    with pytest.raises(UsageError, match="no field 'embedding'"):
        encoder.encode_images(pixels, ["embedding"])


# -- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["w.safetensors", "w.pth", "train.pth.tar", "bare.safetensors"])
def test_a_files_weights_are_those_that_run(form: str, whole: tuple[Path, Any]) -> None:
    folder, bare = whole
    encoder = load("timm:test_resnet", folder / form)
    state = encoder.model.visual.state_dict()
    assert set(state) == set(bare)
    assert all(torch.equal(state[name], bare[name]) for name in bare)
    assert encoder.provenance["pretrained"] == str(folder / form)
    assert portable(encoder.provenance)["pretrained"] == form


def test_files_that_do_not_fit_are_refused(whole: tuple[Path, Any], tmp_path: Path) -> None:
    _, bare = whole
    fewer = dict(list(bare.items())[3:])
    save_file(fewer, tmp_path / "fewer.safetensors")
    missing = next(name for name in bare if name not in fewer)
    assert missing in refused("timm:test_resnet", tmp_path / "fewer.safetensors")
    save_file({**bare, "extra.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    assert "extra.weight" in refused("timm:test_resnet", tmp_path / "more.safetensors")
    text = refused("timm:test_vit", tmp_path / "more.safetensors")
    assert "more.safetensors does not fit timm:test_vit" in text
    (tmp_path / "cut.safetensors").write_bytes(b"\0" * 9)
    assert "cannot be read as weights" in refused("timm:test_resnet", tmp_path / "cut.safetensors")
    save_file({}, tmp_path / "none.safetensors")
    assert "not a table of tensors" in refused("timm:test_resnet", tmp_path / "none.safetensors")
    assert "no such weights file" in refused("timm:test_resnet", tmp_path / "nowhere.pth")


class Sneaky:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Sneaky, "ran", True))


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"fc.weight": Sneaky()}, tmp_path / "bad.pth")
    assert "code is never run" in refused("timm:test_resnet", tmp_path / "bad.pth")
    assert not Sneaky.ran


def test_a_record_beside_a_file_says_the_preprocessing(
    whole: tuple[Path, Any], tmp_path: Path
) -> None:
    _, bare = whole
    save_file(bare, tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 96, 96], "crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5] * 3}
    record = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(record))
    found = load("timm:test_resnet", tmp_path / "model.safetensors").preprocessing
    assert found.size == (96, 96) and found.crop_pct == 1.0
    assert found.resize_mode == "squash" and found.mean == (0.5, 0.5, 0.5)
    assert "name it timm:test_resnet" in refused("timm:test_vit", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert "no record of timm's" in refused("timm:test_resnet", tmp_path / "model.safetensors")


def test_a_bare_file_of_an_architecture_whose_weights_differ_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING, "ltcache"):
        default = load("timm:resnet18", tmp_path / "w.pth")
        assert "timm:resnet18.a1_in1k" in caplog.text
        caplog.clear()
        tagged = load("timm:resnet18.tv_in1k", tmp_path / "w.pth")
        assert not caplog.text
    assert (default.preprocessing.crop_pct, tagged.preprocessing.crop_pct) == (0.95, 0.875)
    assert tagged.preprocessing.interpolation == "bilinear"


def test_weights_of_another_size_are_said_to_be_resized(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for size in (160, 320):
        model = timm.create_model("test_vit", img_size=size, num_classes=7)
        torch.save(model.state_dict(), tmp_path / f"{size}.pth")
    with caplog.at_level(logging.WARNING, "ltcache"):
        load("timm:test_vit", tmp_path / "160.pth")
        assert not caplog.text
        load("timm:test_vit", tmp_path / "320.pth")
    assert "320.pth is of another size than timm:test_vit, so that timm resizes" in caplog.text
    assert "pos_embed (1, 401, 64) to (1, 101, 64)" in caplog.text


def test_published_weights_go_through_timms_own_loading(
    whole: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's answer is a file here; all that follows is timm's code and ours."""
    _, bare = whole
    torch.manual_seed(0)
    width = timm.create_model("test_resnet").num_features
    classifier = {"fc.weight": torch.randn(1000, width), "fc.bias": torch.randn(1000)}
    asked = []

    def from_hub(place: Any, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        asked.append(place)
        return {**bare, **classifier}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", from_hub)
    one = load("timm:test_resnet.r160_in1k")
    two = load("timm:test_resnet", "r160_in1k")
    assert asked == ["timm/test_resnet.r160_in1k"] * 2
    assert one.identity == two.identity and one.dims == {"pooled": width}
    assert torch.equal(one.model.visual.state_dict()["conv1.0.weight"], bare["conv1.0.weight"])
    classifier.clear()
    assert "fc.weight" in refused("timm:test_resnet.r160_in1k")  # strict


def test_the_hub_is_asked_for_its_record(
    whole: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {**timm.models.get_pretrained_cfg("test_vit").to_dict(), "crop_pct": 0.5}
    monkeypatch.setattr(
        "ltcache.encoder.timm_tower.load_model_config_from_hf",
        lambda place, **_: (record, "test_vit", {"class_token": False, "global_pool": "avg"}),
    )
    tower = resolve_tower(EncoderChoice("timm:hf-hub:me/mine"))
    assert tower == TimmSource("test_vit", record, {"class_token": False, "global_pool": "avg"})
    with pytest.raises(UsageError, match="brings its own weights"):
        resolve_tower(EncoderChoice("timm:hf-hub:me/mine", "random:0"))


def test_weights_that_cannot_be_fetched_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", away)
    monkeypatch.setattr("ltcache.encoder.timm_tower.load_model_config_from_hf", away)
    text = refused("timm:test_resnet.r160_in1k")
    assert "Name or service not known" in text and "give its path as --pretrained" in text
    assert "cannot be fetched" in refused("timm:hf-hub:me/mine")


# -- names ----------------------------------------------------------------------------------------


def test_names_that_cannot_be_meant() -> None:
    assert "nearest: timm:resnet50" in refused("timm:resnet5O", "random:0")
    text = refused("timm:resnet18", error=UsageError)
    assert "a1_in1k" in text and "random:0" in text
    assert "nearest: a1_in1k" in refused("timm:resnet18.a1_in1")
    assert "known tags: a1_in1k" in refused("timm:resnet18", "b9")
    text = refused("timm:resnet18.a1_in1k", "tv_in1k", error=UsageError)
    assert "names its weights" in text
    assert "leave it out" in refused(
        "timm:resnet18", "random:0", activation="gelu", error=UsageError
    )
    assert "whole number" in refused("timm:resnet18", "random:x", error=UsageError)


def test_towers_that_are_no_encoders_of_photographs_are_refused() -> None:
    for record, words in (
        ({"crop_mode": "border"}, "odd: crop mode 'border'"),
        ({"input_size": (12, 8, 8)}, "odd takes images of 12 channels"),
        ({"interpolation": "nearest"}, "odd: interpolation 'nearest'"),
    ):
        with pytest.raises(EncoderError, match=words):
            preprocessing_of_tower(SimpleNamespace(pretrained_cfg=record), "odd")
