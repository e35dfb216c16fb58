"""Every form of naming an encoder, and every refusal with its message."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from ltcache.encoder import EncoderChoice, device, load_encoder, source
from ltcache.errors import EncoderError, LtcacheError, UsageError
from tests.encoder.tiny_models import build, tiny_config, write_folder, write_tiny_clip


def refused(*arguments: Any, error: type[LtcacheError] = EncoderError, **options: Any) -> str:
    with pytest.raises(error) as info:
        load_encoder(*arguments, **{"device": "cpu", **options})
    return str(info.value)


@pytest.fixture
def bare(tiny_folder: Any, tmp_path: Path) -> Path:
    """A weights file without a record beside it."""
    return Path(
        shutil.copy(
            tiny_folder(kind="vit") / "open_clip_model.safetensors", tmp_path / "w.safetensors"
        )
    )


def no_network(*arguments: Any, **options: Any) -> str:
    raise FileNotFoundError("Failed to download file. Last error: Name or service not known\nmore")


# -- what goes together ---------------------------------------------------------------------------


def test_a_prefix_with_pretrained_is_refused(tiny_folder: Any) -> None:
    for model in ("embedded", "hf-hub:org/name", f"local-dir:{tiny_folder(kind='vit')}"):
        message = refused(model, "openai", error=UsageError)
        assert "brings its own weights" in message
        assert "--pretrained openai" in message


def test_a_comma_with_pretrained_is_refused() -> None:
    assert "leave out --pretrained" in refused("ViT-B-32,openai", "openai", error=UsageError)


def test_an_architecture_without_weights_is_refused() -> None:
    message = refused("ViT-B-32", error=UsageError)
    assert "laion2b_s34b_b79k" in message
    assert "random:0" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "fp32, tf32, bf16, fp16"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"activation": "relu"}, "gelu, quick_gelu"),
        ({"device": "gpu"}, "auto, cpu, cuda"),
        ({"device": "meta"}, "auto, cpu, cuda"),
        ({"pretrained": "random:x"}, "whole number"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    message = refused("RN50", **{"pretrained": "random", **options}, error=UsageError)
    assert words in message


# -- unknown and missing --------------------------------------------------------------------------


def test_unknown_names_list_the_nearest() -> None:
    message = refused("VitB32", "openai")
    assert "ViT-B-32" in message
    assert "local-dir:" in message
    message = refused("ViT-B-32", "laion2b")
    assert "nearest" in message
    assert "laion2b_s34b_b79k" in message
    assert "weights file" in message


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert "no such weights file" in refused("RN50", str(tmp_path / "x.pt"), activation="gelu")
    assert "no such folder" in refused(f"local-dir:{tmp_path / 'x'}")
    message = refused(f"local-dir:{tmp_path}")
    assert str(tmp_path / "open_clip_config.json") in message
    assert "No such file" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no model_cfg"),
        ('{"model_cfg": {"embed_dim": 3}}', "no model_cfg"),
        (
            '{"model_cfg": {"embed_dim": 32, "vision_cfg": {"colour": 1}, "text_cfg": {}}}',
            "colour",
        ),
    ],
)
def test_a_broken_record_is_named(text: str, words: str, tmp_path: Path, bare: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(bare, folder)
    (folder / "open_clip_config.json").write_text(text)
    message = refused(f"local-dir:{folder}")
    assert words in message
    assert str(folder) in message


def test_a_folder_without_weights(tiny_folder: Any, tmp_path: Path) -> None:
    shutil.copy(tiny_folder(kind="vit") / "open_clip_config.json", tmp_path)
    assert "no weights" in refused(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04cos\nsystem\n."])
def test_a_damaged_file_is_named(
    suffix: str, content: bytes, architectures: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    message = refused("tiny-vit", str(path), activation="gelu")
    assert message.startswith(f"{path}: cannot be read as weights")
    assert "\n" not in message


def test_a_cut_file_is_named(bare: Path, architectures: Any) -> None:
    bare.write_bytes(bare.read_bytes()[:-1000])
    assert f"{bare}: cannot be read" in refused("tiny-vit", str(bare), activation="gelu")


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("touched"),))  # type: ignore[return-value]


def test_code_in_a_file_is_never_run(
    architectures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, tmp_path / "evil.pt")
    message = refused("tiny-vit", str(tmp_path / "evil.pt"), activation="gelu")
    assert "code is never run" in message
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [{}, torch.ones(2), {"state_dict": {"a": 1}}], ids=str)
def test_a_file_with_something_else(content: Any, architectures: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in refused("tiny-vit", str(tmp_path / "x.pt"), activation="gelu")


def test_weights_of_another_architecture_name_the_first_keys(bare: Path) -> None:
    message = refused("RN50", str(bare), activation="gelu")
    lines = message.splitlines()
    assert lines[0] == f"{bare} does not fit RN50:"
    assert lines[1].startswith("  missing: visual.bn1.weight")
    assert lines[1].endswith(" more")
    assert lines[2].startswith("  unexpected: visual.class_embedding")
    assert lines[3].startswith("  of another shape: ")
    assert len(lines) == 4
    assert max(map(len, lines)) < 300


def test_weights_of_another_size_name_the_first_keys(
    bare: Path, architectures: dict[str, Any]
) -> None:
    architectures["tiny-vit"]["embed_dim"] = 16
    message = refused("tiny-vit", str(bare), activation="gelu")
    assert "of another shape: text_projection (16, 32) instead of (16, 16)" in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_interpolated_positions_are_said_so(
    suffix: str,
    bare: Path,
    architectures: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = bare
    if suffix == ".pt":
        path = tmp_path / "w.pt"
        state = open_clip.factory.load_state_dict(str(bare))
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    architectures["tiny-vit"]["vision_cfg"]["image_size"] = 64
    load_encoder("tiny-vit", str(path), activation="gelu", device="cpu")
    assert "(17, 32) and is interpolated to (65, 32) of tiny-vit" in caplog.text


def _nested(state: dict[str, Any], form: str) -> dict[str, Any]:
    """Return a training checkpoint as people save it."""
    optimiser = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.ones(())}}, "groups": [0]}
    rest = {"epoch": 3, "optimizer": optimiser}
    prefix, _, place = form.rpartition("/")
    named = {f"{prefix}{key}": value for key, value in state.items()}
    return {**rest, place: named} if place else named


@pytest.mark.parametrize(
    "form",
    ["model", "net", "model_state", "ema", "module./model", "model./state_dict", "module.model./",
     "_orig_mod./model"],
)  # fmt: skip
def test_weights_of_a_training_checkpoint_are_found(
    form: str, bare: Path, architectures: Any, tmp_path: Path
) -> None:
    state = open_clip.factory.load_state_dict(str(bare))
    torch.save(_nested(state, form), tmp_path / "w.pt")
    found = load_encoder("tiny-vit", str(tmp_path / "w.pt"), activation="gelu", device="cpu")
    alone = load_encoder("tiny-vit", str(bare), activation="gelu", device="cpu")
    assert found.identity == alone.identity


def test_what_a_file_holds_in_place_of_weights_is_said(
    bare: Path, architectures: Any, tmp_path: Path
) -> None:
    state, path = open_clip.factory.load_state_dict(str(bare)), tmp_path / "w.pt"
    torch.save({"model": state, "ema": state, "epoch": 3}, path)
    message = refused("tiny-vit", str(path), activation="gelu")
    assert 'several sets of weights, at ["model"] and ["ema"]' in message
    line = message.rpartition("; ")[2]
    exec(line.replace("'weights.pt'", repr(str(tmp_path / "one.pt"))), {"torch": torch})
    load_encoder("tiny-vit", str(tmp_path / "one.pt"), activation="gelu", device="cpu")
    torch.save({"epoch": 3, "model": {"fc.weight": torch.ones(2)}}, path)
    message = refused("tiny-vit", str(path), activation="gelu")
    assert "it holds epoch, model, and no table of tensors" in message
    state.pop("logit_scale")
    torch.save({"model": state}, path)
    message = refused("tiny-vit", str(path), activation="gelu")
    assert "w.pt does not fit tiny-vit:\n  missing: logit_scale" in message
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, path)
    message = refused("tiny-vit", str(path), activation="gelu")
    assert "where you trust who made it" in message and "weights_only=False)[KEY]" in message


def test_an_unreachable_hub_says_what_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "download_pretrained", no_network)
    monkeypatch.setattr(source, "download_pretrained_from_hf", no_network)
    for model in ("hf-hub:org/name", "ViT-B-32,laion2b_s34b_b79k"):
        message = refused(model)
        assert message.startswith(f"{model}: cannot be fetched (Failed to download")
        assert "local-dir:" in message
        assert "\n" not in message


# -- forms that work ------------------------------------------------------------------------------


def test_a_tag_loads_with_its_record(
    bare: Path, architectures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = {"hf_hub": "x/", "mean": (0.5, 0.5, 0.5), "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", {"mine": tag})
    monkeypatch.setattr(source, "download_pretrained", lambda cfg, cache_dir=None: str(bare))
    for names in (("tiny-vit", "mine"), ("tiny-vit,mine",), ("tiny/vit", "mine")):
        encoder = load_encoder(*names, device="cpu")
        assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)
        assert encoder.preprocessing.resize_mode == "squash"
        assert encoder.identity["architecture"]["activation"] == "gelu"
        named = encoder.provenance["model"], encoder.provenance["pretrained"]
        assert named == (names[0].partition(",")[0], "mine")  # apart, however they were typed


def test_a_hub_model_loads_from_its_record(
    tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(kind="vit", quick_gelu=True)

    def fetch(repository: str, filename: str | None = None, **options: Any) -> str:
        return str(folder / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr(source, "download_pretrained_from_hf", fetch)
    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", fetch)
    found = load_encoder("hf-hub:org/name", device="cpu").identity
    assert found == load_encoder(f"local-dir:{folder}", device="cpu").identity
    assert found["architecture"]["activation"] == "quick_gelu"


def test_the_embedded_encoder_is_a_folder(
    tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    folder = tiny_folder(kind="vit")
    module = types.ModuleType("ltcache.embedded")
    module.encoder_path = lambda: folder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ltcache.embedded", module)
    encoder = load_encoder(device="cpu")
    assert encoder.provenance == {"model": "embedded", "pretrained": None, "activation": None}
    assert encoder.identity == load_encoder(f"local-dir:{folder}", device="cpu").identity


def test_a_relative_vocabulary_lies_in_the_folder(tmp_path: Path) -> None:
    from open_clip.tokenizer import default_bpe

    config = tiny_config()
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": "words.txt.gz"}
    folder = write_folder(tmp_path / "m", config, build(tiny_config()))
    assert "tokenizer" in refused(f"local-dir:{folder}")
    shutil.copy(default_bpe(), folder / "words.txt.gz")
    found = load_encoder(f"local-dir:{folder}", device="cpu").identity
    absolute = json.loads((folder / "open_clip_config.json").read_text())
    absolute["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["bpe_path"] = str(folder / "words.txt.gz")
    (folder / "open_clip_config.json").write_text(json.dumps(absolute))
    assert load_encoder(f"local-dir:{folder}", device="cpu").identity == found


def test_a_tokenizer_that_needs_transformers_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    config = tiny_config()
    config["text_cfg"]["hf_tokenizer_name"] = "org/words"
    folder = write_folder(tmp_path / "m", config, build(tiny_config()))
    assert "pip install transformers" in refused(f"local-dir:{folder}")


# -- activation and preprocessing records ---------------------------------------------------------


@pytest.mark.parametrize("tag", ["openai", "metaclip_400m", "laion400m_e32"])
def test_a_tag_trained_with_quick_gelu_is_refused_for_plain_gelu(tag: str) -> None:
    message = refused("ViT-B-32", tag)
    assert f"the tag '{tag}'" in message
    assert "ViT-B-32-quickgelu" in message
    assert "--activation quick_gelu" in message


def test_the_remedies_for_a_tag_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "download_pretrained", lambda cfg, cache_dir=None: "weights")
    for arguments in [
        ("ViT-B-32-quickgelu", "openai", None),
        ("ViT-B-32", "openai", "quick_gelu"),
        ("ViT-B-32,openai", None, "quick_gelu"),
    ]:
        assert source.resolve(EncoderChoice(*arguments)).activation == "quick_gelu"
    assert source.resolve(EncoderChoice("ViT-B-32", "laion2b_s34b_b79k")).activation == "gelu"
    # this architecture has QuickGELU itself, and its tag says nothing
    assert (
        source.resolve(EncoderChoice("roberta-ViT-B-32", "laion2b_s12b_b32k")).activation
        == "quick_gelu"
    )


def test_an_activation_that_contradicts_a_record_is_refused(
    tiny_folder: Any, architectures: Any
) -> None:
    message = refused("ViT-B-32", "laion2b_s34b_b79k", activation="quick_gelu")
    assert "leave the option out" in message
    folder = tiny_folder(kind="vit", quick_gelu=True)
    message = refused(f"local-dir:{folder}", activation="gelu")
    assert str(folder / "open_clip_config.json") in message
    assert "leave the option out" in message
    file = str(folder / "open_clip_model.safetensors")
    message = refused("tiny-vit", file)
    assert "name the architecture tiny-vit-quickgelu, or give --activation quick_gelu" in message
    assert "tiny-vit-quickgelu" not in refused("tiny-vit-quickgelu", file, activation="gelu")
    ways = [
        load_encoder("tiny-vit", file, activation="quick_gelu", device="cpu"),
        load_encoder("tiny-vit-quickgelu", file, device="cpu"),
        load_encoder(f"local-dir:{folder}", activation="quick_gelu", device="cpu"),
    ]
    assert ways[0].identity == ways[1].identity == ways[2].identity


def test_the_activation_is_built(tiny_folder: Any, architectures: Any, bare: Path) -> None:
    for activation, expected in (
        ("gelu", torch.nn.GELU),
        ("quick_gelu", open_clip.model.QuickGELU),
    ):
        for name in ("tiny-vit", "tiny-vit-quickgelu"):
            encoder = load_encoder(name, str(bare), activation=activation, device="cpu")
            assert encoder.identity["architecture"]["activation"] == activation
            for tower in (encoder.model.visual.transformer, encoder.model.transformer):
                assert type(tower.resblocks[0].mlp.gelu) is expected


def test_a_bare_file_needs_the_activation(bare: Path, architectures: Any) -> None:
    message = refused("tiny-vit", str(bare), error=UsageError)
    assert "--activation quick_gelu" in message
    assert str(bare) in message
    named = load_encoder("tiny-vit-quickgelu", str(bare), device="cpu")
    assert named.identity["architecture"]["activation"] == "quick_gelu"


def test_a_record_of_another_architecture_is_refused(
    tiny_folder: Any, architectures: dict[str, Any]
) -> None:
    """Head widths change no shape: only the record can tell."""
    architectures["tiny-vit"]["vision_cfg"]["head_width"] = 8
    folder = tiny_folder(kind="vit")
    message = refused("tiny-vit", str(folder / "open_clip_model.safetensors"))
    assert "vision.head_width: 16 there, 8 in tiny-vit" in message
    assert f"local-dir:{folder}" in message


def test_a_bare_file_of_a_model_with_other_preprocessing_is_refused(
    bare: Path,
    architectures: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tags: dict[str, Any] = {"a": {"mean": (0.5, 0.5, 0.5)}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tags)
    message = refused("tiny-vit", str(bare), activation="gelu")
    assert "preprocess_cfg" in message
    tags["b"] = {}
    load_encoder("tiny-vit", str(bare), activation="gelu", device="cpu")
    assert "differ in it" in caplog.text


def test_preprocessing_in_open_clips_short_forms(tmp_path: Path) -> None:
    preprocess = {"mean": 0.5, "std": 0.25, "interpolation": "random", "fill_color": 7}
    folder = write_folder(tmp_path / "m", tiny_config(), build(tiny_config()), preprocess)
    found = load_encoder(f"local-dir:{folder}", device="cpu").preprocessing
    assert found.mean == (0.5, 0.5, 0.5)
    assert found.std == (0.25, 0.25, 0.25)
    assert found.interpolation == "bicubic"
    assert found.fill_color == 7


# -- devices and logs -----------------------------------------------------------------------------


def test_an_unused_gpu_is_said_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "_has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert device.choose_device("auto") == torch.device("cpu")
    assert "built without CUDA" in caplog.text
    with pytest.raises(EncoderError, match="built without CUDA"):
        device.choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(EncoderError, match=r"CUDA 12\.8\) finds no usable GPU"):
        device.choose_device("cuda:0")
    caplog.clear()
    monkeypatch.setattr(device, "_has_nvidia_driver", lambda: False)
    device.choose_device("auto")
    assert not caplog.text


def test_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choose_device("auto").type == "cuda"
    assert device.choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(EncoderError, match="there are 2 GPUs"):
        device.choose_device("cuda:2")


def test_processes_of_a_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    taken = [device.own_device("auto", local_rank) for local_rank in range(3)]
    assert taken == current == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # a task that sees its own GPU
    assert device.own_device("cuda", 5) == "cuda:0"
    assert device.own_device("cuda:0", 5) == "cuda:0" and device.own_device("cpu", 5) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.own_device("auto", 5) == "auto"


def test_loading_is_quiet_and_leaves_logging_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_clip(tmp_path / "m")
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters))
    load_encoder(f"local-dir:{folder}", device="cpu")
    assert (root.handlers, root.filters) == before
    assert not caplog.records
