"""Checkpoints of finetune: what is saved is what was in memory, and nothing else passes for it."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from ltcache.embedded import vit_encoder_path
from ltcache.encoder import (
    Encoder,
    load_encoder,
    mix_weights,
    read_checkpoint,
    save_checkpoint,
)
from ltcache.encoder.adapters import (
    TOWER_ADAPTERS,
    AdapterContext,
    AdapterSpec,
    insert_adapters,
    merge_adapters,
)
from ltcache.encoder.recorded import portable
from ltcache.errors import EncoderError, LtcacheError, UsageError
from tests.encoder.tiny_models import KINDS, build, tiny_config, write_folder

UNMERGEABLE = tuple(name for name, kind in TOWER_ADAPTERS.items() if not kind.mergeable)
CONTEXT = AdapterContext(num_classes=5, descriptions=torch.ones(5, 32))


def load(name: Any, *arguments: Any, **options: Any) -> Encoder:
    return load_encoder(str(name), *arguments, **{"device": "cpu", **options})


def tuned(
    parent: Encoder, *names: str, step: float = 0.01, seed: int = 0, everything: bool = True
) -> Encoder:
    """Return what a training could have made of a parent: adapters, and weights that moved."""
    model = copy.deepcopy(parent.model)
    insert_adapters(model, [AdapterSpec(name) for name in names], context=CONTEXT)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if everything or "adapters" in name:
                tensor.add_(step * torch.randn(tensor.shape, generator=generator))
    return parent.with_model(model)


def pixels(encoder: Encoder, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, 3, *encoder.preprocessing.size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def require_same(one: Encoder, other: Encoder) -> None:
    """The same identity, and the same bits of images, texts and scale."""
    assert one.identity == other.identity
    images = pixels(one)
    first, second = one.encode_images(images), other.encode_images(images)
    assert all(torch.equal(first[name], second[name]) for name in one.dims)
    texts = ["a dog", "a drawing of a cat"]
    assert torch.equal(one.encode_texts(texts), other.encode_texts(texts))
    assert one.logit_scale == other.logit_scale


def refused(action: Callable[[], Any], error: type[LtcacheError] = EncoderError) -> str:
    with pytest.raises(error) as info:
        action()
    return str(info.value)


@pytest.fixture
def parent(tiny_folder: Any, tmp_path: Path) -> Encoder:
    """A tiny ViT in a folder that a test may move."""
    return load(f"local-dir:{shutil.copytree(tiny_folder(kind='vit'), tmp_path / 'parent')}")


@pytest.fixture
def adapted(parent: Encoder, tmp_path: Path) -> Path:
    """A checkpoint with an adapter that is left."""
    folder = tmp_path / "adapted"
    save_checkpoint(folder, tuned(parent, "adaptformer"), parent=parent, record={})
    return folder


# -- an encoder of a model in memory --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_shares_nothing_with_its_parent(tiny: Any, kind: str) -> None:
    encoder = tiny(kind=kind)
    images = pixels(encoder)
    before = encoder.forward_fields(images, tokens=True)
    child = encoder.with_model(copy.deepcopy(encoder.model))
    assert child.identity == encoder.identity
    assert child.provenance["model"] is None
    assert child.provenance["parent"] == "local-dir:model"
    same = child.forward_fields(images, tokens=True)
    assert same.keys() == before.keys()
    assert all(torch.equal(same[name], before[name]) for name in before)

    with torch.no_grad():
        for tensor in child.model.parameters():
            tensor.mul_(1.5)
    after = encoder.forward_fields(images, tokens=True)
    assert all(torch.equal(after[name], before[name]) for name in before)
    moved = child.forward_fields(images, tokens=True)
    assert not any(torch.equal(moved[name], before[name]) for name in before)


def test_what_changes_in_a_child_changes_in_its_identity(tiny: Any) -> None:
    encoder = tiny(kind="vit")
    model = copy.deepcopy(encoder.model)
    with torch.no_grad():
        model.logit_scale.add_(0.5)
        model.visual.proj.add_(0.1)
    child = encoder.with_model(model)
    assert child.identity["towers"]["image"] != encoder.identity["towers"]["image"]
    assert child.identity["towers"]["text"] == encoder.identity["towers"]["text"]
    assert child.logit_scale == pytest.approx(encoder.logit_scale * 1.6487213, rel=1e-5)
    assert (child.projection == encoder.projection + 0.1).all()


def test_adapters_are_part_of_the_identity_and_hide_tokens(tiny: Any) -> None:
    child = tuned(tiny(kind="vit"), "adaptformer")
    (adapter,) = child.identity["architecture"]["adapters"]
    assert adapter["name"] == "adaptformer"
    assert adapter["options"]["bottleneck"] >= 1
    assert child.token_shape is None
    json.dumps(child.identity)


def test_use_of_the_tokenizer_changes_no_identity(tiny: Any) -> None:
    encoder = tiny(kind="vit")
    encoder.encode_texts(["some words"])
    assert encoder.with_model(copy.deepcopy(encoder.model)).identity == encoder.identity


# -- whole models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [*({"kind": kind} for kind in KINDS), {"kind": "vit", "quick_gelu": True}],
    ids=str,
)
def test_a_whole_model_is_loaded_as_it_was(tiny: Any, tmp_path: Path, options: Any) -> None:
    encoder = tiny(**options)
    child = tuned(encoder)
    folder = tmp_path / "tuned"
    save_checkpoint(folder, child, parent=encoder, record={"method": "full", "loss": [1.0, 0.5]})
    again = load(f"local-dir:{folder}")
    require_same(child, again)
    assert again.identity != encoder.identity
    expected = {"model": f"local-dir:{folder}", "parent": "local-dir:model"}
    assert {name: again.provenance[name] for name in expected} == expected
    assert child.provenance == again.provenance

    record = read_checkpoint(folder)
    assert record.record == {"method": "full", "loss": [1.0, 0.5]}
    assert record.parent["identity"] == encoder.identity
    assert record.identity == child.identity


@pytest.mark.parametrize("options", [{"kind": "vit", "quick_gelu": True}, {"kind": "timm"}])
def test_plain_open_clip_gives_the_same_embeddings(tiny: Any, tmp_path: Path, options: Any) -> None:
    child = tuned(tiny(**options))
    save_checkpoint(tmp_path / "tuned", child, parent=tiny(**options), record={})
    require_plain(child, tmp_path / "tuned")


def require_plain(child: Encoder, folder: Path) -> None:
    """Load a checkpoint with open_clip alone and compare images and texts."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    mean, std = preprocess.transforms[-1].mean, preprocess.transforms[-1].std
    assert tuple(mean) == child.preprocessing.mean
    images = pixels(child)
    normal = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        embedding = model.encode_image(normal)
        texts = model.encode_text(open_clip.get_tokenizer(name)(["a dog"]))
    expected = child.encode_images(images, ["embedding"])["embedding"]
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texts, child.encode_texts(["a dog"]), rtol=1e-5, atol=1e-6)


def test_merged_adapters_leave_a_whole_model(tiny: Any, tmp_path: Path) -> None:
    encoder = tiny(kind="vit")
    model = copy.deepcopy(encoder.model)
    insert_adapters(model, [AdapterSpec("lora")], seed=3)
    with torch.no_grad():
        for tensor in model.visual.adapters.parameters():
            tensor.add_(0.1)
        for name, tensor in model.visual.named_parameters():
            if "parametrizations" in name:
                tensor.add_(0.01)
    assert merge_adapters(model) == []
    child = encoder.with_model(model, adapters=[])
    save_checkpoint(tmp_path / "tuned", child, parent=encoder, record={})
    require_same(child, load(tmp_path / "tuned"))
    require_plain(child, tmp_path / "tuned")


def test_saving_replaces_an_identity_and_changes_none(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer of files of its own looks another way once it is loaded from the checkpoint."""
    parent = tiny(kind="vit")
    child = tuned(parent)
    before, kept = child.identity, copy.deepcopy(child.identity)
    child.tokenizer = SimpleNamespace(save_pretrained=None)
    files = SimpleNamespace(save_pretrained=lambda folder: None)
    monkeypatch.setattr("ltcache.encoder.plain_model.load_tokenizer", lambda source: files)
    monkeypatch.setattr("ltcache.encoder.plain_model.tokenizer_identity", lambda _: {"class": "B"})
    save_checkpoint(tmp_path / "tuned", child, parent=parent, record={})
    assert before == kept
    assert child.identity == {**kept, "tokenizer": {"class": "B"}}
    assert read_checkpoint(tmp_path / "tuned").identity == child.identity


# larger ones have the same towers: RN50 is a parent below, ViT-B-32 is read in tests/extract
@pytest.mark.parametrize("name", ["embedded", f"local-dir:{vit_encoder_path()}"])
@pytest.mark.slow
def test_real_whole_models(name: str, tmp_path: Path) -> None:
    encoder = load(name)
    child = tuned(encoder, step=1e-3)
    save_checkpoint(tmp_path / "c", child, parent=encoder, record={})
    require_same(child, load(tmp_path / "c"))
    require_plain(child, tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("embedded", "visual_attention"),
        (f"local-dir:{vit_encoder_path()}", "sg_adapter"),
        ("RN50", "visual_attention"),
    ],
)
@pytest.mark.slow
def test_real_adapted_models(name: str, adapter: str, tmp_path: Path) -> None:
    encoder = load(name, *(("random:0",) if name == "RN50" else ()))
    child = tuned(encoder, adapter, everything=False)
    save_checkpoint(tmp_path / "c", child, parent=encoder, record={})
    require_same(child, load(tmp_path / "c"))


def test_the_activation_of_a_weights_file_survives(
    tiny_folder: Any, tmp_path: Path, architectures: Any
) -> None:
    """Named as an architecture, its activation is in no file of the parent's."""
    weights = shutil.copy(
        tiny_folder(kind="vit") / "open_clip_model.safetensors", tmp_path / "w.safetensors"
    )
    encoder = load("tiny-vit", str(weights), activation="quick_gelu")
    child = tuned(encoder)
    save_checkpoint(tmp_path / "whole", child, parent=encoder, record={})
    config = json.loads((tmp_path / "whole" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True
    require_same(child, load(tmp_path / "whole"))
    require_plain(child, tmp_path / "whole")

    partly = tuned(encoder, "adaptformer")
    save_checkpoint(tmp_path / "partly", partly, parent=encoder, record={})
    require_same(partly, load(tmp_path / "partly"))
    message = refused(lambda: load(tmp_path / "partly", activation="gelu"))
    assert "'quick_gelu'" in message
    assert str(tmp_path / "partly") in message


def test_a_vocabulary_in_the_folder_travels_along(tmp_path: Path) -> None:
    config = tiny_config("vit")
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": "words/merges.txt.gz"}
    parent = write_folder(tmp_path / "parent", config, build(tiny_config("vit")))
    (parent / "words").mkdir()
    source = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    shutil.copy(source, parent / "words" / "merges.txt.gz")
    encoder = load(f"local-dir:{parent}")
    child = tuned(encoder)
    save_checkpoint(tmp_path / "tuned", child, parent=encoder, record={})
    shutil.rmtree(parent)
    require_same(child, load(tmp_path / "tuned"))


# -- adapters that are left -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("vit", name) for name in UNMERGEABLE), ("timm", UNMERGEABLE[-1]), ("resnet", "sg_adapter")],
)
def test_adapters_are_loaded_as_they_were(tiny: Any, tmp_path: Path, kind: str, name: str) -> None:
    encoder = tiny(kind=kind)
    child = tuned(encoder, name, everything=False)
    folder = tmp_path / "tuned"
    save_checkpoint(folder, child, parent=encoder, record={})
    assert sorted(os.listdir(folder)) == ["adapters.safetensors", "ltcache.json"]
    stored = load_file(folder / "adapters.safetensors")
    assert stored
    assert all(tensor.startswith(f"visual.adapters.{name}.") for tensor in stored)
    again = load(f"local-dir:{folder}")
    require_same(child, again)
    assert again.adapters == child.adapters
    assert not any(tensor.requires_grad for tensor in again.model.parameters())
    with pytest.raises(FileNotFoundError):
        open_clip.create_model_and_transforms(f"local-dir:{folder}")


def test_only_what_the_parent_has_not_is_stored(parent: Encoder, tmp_path: Path) -> None:
    model = copy.deepcopy(parent.model)
    insert_adapters(model, [AdapterSpec("adaptformer")], context=CONTEXT)
    with torch.no_grad():
        model.ln_final.bias.add_(1)
        model.visual.ln_post.weight.mul_(2)
        model.logit_scale.add_(0.1)
    child = parent.with_model(model)
    save_checkpoint(tmp_path / "tuned", child, parent=parent, record={})
    stored = load_file(tmp_path / "tuned" / "adapters.safetensors")
    moved = {name for name in stored if not name.startswith("visual.adapters.")}
    assert moved == {"ln_final.bias", "visual.ln_post.weight", "logit_scale"}
    require_same(child, load(tmp_path / "tuned"))


def test_several_adapters_and_a_checkpoint_of_a_checkpoint(parent: Encoder, tmp_path: Path) -> None:
    first = tuned(parent, "visual_attention", "adaptformer")
    save_checkpoint(tmp_path / "first", first, parent=parent, record={})
    first = load(tmp_path / "first")
    assert [item["name"] for item in first.adapters] == ["visual_attention", "adaptformer"]
    second = tuned(first, "sg_adapter", seed=1)
    save_checkpoint(tmp_path / "second", second, parent=first, record={})
    again = load(tmp_path / "second")
    require_same(second, again)
    assert [item["name"] for item in again.adapters][-1] == "sg_adapter"
    third = tuned(again, seed=2)
    save_checkpoint(tmp_path / "third", third, parent=again, record={})
    require_same(third, load(tmp_path / "third"))


# -- the parent -----------------------------------------------------------------------------------


def test_a_parent_with_other_weights_is_refused(adapted: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "parent", tiny_config("vit"), build(tiny_config("vit"), seed=7))
    expected = read_checkpoint(adapted).parent["identity"]["towers"]["image"][:16]
    found = load(f"local-dir:{tmp_path / 'parent'}").identity["towers"]["image"][:16]
    message = refused(lambda: load(adapted))
    for part in (str(adapted), "local-dir:parent", expected, found, "--pretrained", "parent.model"):
        assert part in message


def test_a_parent_that_moved_is_found_beside_or_as_named(adapted: Path, tmp_path: Path) -> None:
    saved = load(adapted)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = Path(shutil.move(adapted, elsewhere / "adapted"))
    require_same(saved, load(moved))  # its parent is where it was
    away = Path(shutil.move(tmp_path / "parent", tmp_path / "base"))
    message = refused(lambda: load(moved))
    for part in (str(moved), "local-dir:parent", "no such folder", "--pretrained", "parent.model"):
        assert part in message

    named = load(moved, f"local-dir:{away}")
    require_same(saved, named)
    kept = portable(named.provenance)
    assert kept["model"] == "local-dir:adapted"
    assert kept["pretrained"] == "local-dir:base"
    assert kept["parent"] == "local-dir:parent"
    change(moved, f"local-dir:{away}", "parent", "model")
    require_same(saved, load(moved))
    change(moved, f"local-dir:{moved}", "parent", "model")
    assert "its own parent" in refused(lambda: load(moved))


def test_checkpoint_and_parent_that_moved_together_are_found(adapted: Path, tmp_path: Path) -> None:
    saved = load(adapted)
    (tmp_path / "new").mkdir()
    for folder in ("parent", "adapted"):
        shutil.move(tmp_path / folder, tmp_path / "new" / folder)
    require_same(saved, load(tmp_path / "new" / "adapted"))


def test_a_relative_parent_is_found_from_anywhere(
    parent: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = load("local-dir:parent")
    child = tuned(encoder, "adaptformer")
    save_checkpoint("runs/tuned", child, parent=encoder, record={})
    require_same(child, load("runs/tuned"))
    monkeypatch.chdir("/")
    require_same(child, load(tmp_path / "runs" / "tuned"))


def test_a_path_is_no_architecture_and_the_other_way_round(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architectures: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("adapted").provenance["model"] == "local-dir:adapted"
    shutil.copytree("adapted", "tiny-vit")
    assert load("tiny-vit", "random:0").adapters == []
    assert load("./tiny-vit").adapters != []


# -- what is broken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no record of a checkpoint"),
        ("[]", "no record of a checkpoint"),
        ("{}", "no record of a checkpoint"),
        ('{"format": 99, "kind": "adapters"}', "later ltcache"),
        ('{"format": 1, "kind": "adapters", "identity": 1, "parent": {}, "record": {}}', "record"),
    ],
)
def test_a_broken_record_is_named(adapted: Path, text: str, words: str) -> None:
    (adapted / "ltcache.json").write_text(text)
    message = refused(lambda: load(f"local-dir:{adapted}"))
    assert str(adapted / "ltcache.json") in message
    assert words in message


def change(adapted: Path, value: Any, *keys: Any) -> None:
    """Set one value of a checkpoint's record."""
    record = json.loads((adapted / "ltcache.json").read_text())
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (adapted / "ltcache.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (None, ("parent", "model")),
        (3, ("parent", "pretrained")),
        ({}, ("parent", "identity", "towers")),
        (None, ("identity", "architecture", "adapters")),
        ([{"name": "adaptformer"}], ("identity", "architecture", "adapters")),
        ("later", ("identity", "architecture", "adapters", 0, "name")),
        ({"later": 1}, ("identity", "architecture", "adapters", 0, "options")),
        ({"bottleneck": "x"}, ("identity", "architecture", "adapters", 0, "options")),
        ("open_clip", ("kind",)),
    ],
)
def test_a_record_with_a_wrong_value_is_named(adapted: Path, value: Any, keys: Any) -> None:
    change(adapted, value, *keys)
    assert str(adapted / "ltcache.json") in refused(lambda: load(adapted))


def drop(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def rename(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors["visual.adapters.strange"] = tensors[name].clone()


def cut(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name][:1].contiguous()


@pytest.mark.parametrize(
    ("damage", "words"),
    [(drop, "missing"), (rename, "unexpected: visual.adapters.strange"), (cut, "another shape")],
)
def test_tensors_that_do_not_fit_are_named(adapted: Path, damage: Any, words: str) -> None:
    path = adapted / "adapters.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "adapters" in name and len(tensors[name]) > 1)
    damage(tensors, name)
    save_file(tensors, path)
    message = refused(lambda: load(adapted))
    assert str(path) in message
    assert words in message


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all"])
def test_a_damaged_file_of_tensors_is_named(adapted: Path, content: bytes | None) -> None:
    path = adapted / "adapters.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    assert str(path) in refused(lambda: load(adapted))


def test_a_value_that_changed_is_noticed(adapted: Path, parent: Encoder, tmp_path: Path) -> None:
    for folder, name in ((adapted, "adapters"), (tmp_path / "whole", "open_clip_model")):
        if folder != adapted:
            save_checkpoint(folder, tuned(parent), parent=parent, record={})
        path = folder / f"{name}.safetensors"
        tensors = load_file(path)
        last = next(key for key in reversed(tensors) if key.startswith("visual."))
        tensors[last].view(-1)[0] += 1
        save_file(tensors, path)
        message = refused(lambda folder=folder: load(folder))
        assert "towers.image" in message
        assert str(folder) in message


def test_a_whole_model_takes_no_other_weights(parent: Encoder, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "whole", tuned(parent), parent=parent, record={})
    message = refused(lambda: load(tmp_path / "whole", "openai"), UsageError)
    assert "brings its own weights" in message


# -- what is not saved ----------------------------------------------------------------------------


def test_models_that_changed_behind_their_encoder_are_refused(
    parent: Encoder, tmp_path: Path
) -> None:
    child = tuned(parent, "adaptformer")
    with torch.no_grad():
        child.model.ln_final.bias.add_(1)
    save = lambda: save_checkpoint(tmp_path / "c", child, parent=parent, record={})  # noqa: E731
    assert "the encoder's model has changed" in refused(save, UsageError)
    with torch.no_grad():
        child = tuned(parent, "adaptformer")
        parent.model.ln_final.bias.add_(1)
    assert "the parent's model has changed" in refused(save, UsageError)
    assert not (tmp_path / "c").exists()


def test_adapters_that_are_not_told_of_are_refused(tiny: Any, tmp_path: Path) -> None:
    encoder = tiny(kind="vit")
    child = encoder.with_model(tuned(encoder, "adaptformer").model, adapters=[])
    message = refused(
        lambda: save_checkpoint(tmp_path / "c", child, parent=encoder, record={}), UsageError
    )
    assert "visual.adapters" in message


def test_half_precision_is_refused(tiny_folder: Any, tmp_path: Path) -> None:
    encoder = load(f"local-dir:{tiny_folder(kind='vit')}", precision="bf16")
    child = encoder.with_model(copy.deepcopy(encoder.model))
    message = refused(
        lambda: save_checkpoint(tmp_path / "c", child, parent=encoder, record={}), UsageError
    )
    assert "fp32" in message


def test_a_parent_without_a_name_is_refused(parent: Encoder, tmp_path: Path) -> None:
    unsaved = tuned(parent)
    child = tuned(unsaved, "adaptformer")
    save = lambda: save_checkpoint(tmp_path / "c", child, parent=unsaved, record={})  # noqa: E731
    assert "save it first" in refused(save, UsageError)
    save_checkpoint(tmp_path / "unsaved", unsaved, parent=parent, record={})
    save()
    require_same(child, load(tmp_path / "c"))


def test_a_record_that_json_cannot_say_is_refused(parent: Encoder, tmp_path: Path) -> None:
    child = tuned(parent)
    for value in (float("nan"), object()):
        record = {"loss": value}
        message = refused(
            lambda record=record: save_checkpoint(
                tmp_path / "c", child, parent=parent, record=record
            ),
            UsageError,
        )
        assert "JSON" in message
    assert os.listdir(tmp_path) == ["parent"]


def test_places_that_are_taken_are_refused(parent: Encoder, tmp_path: Path) -> None:
    child = tuned(parent)

    def save(folder: Path) -> None:
        save_checkpoint(folder, child, parent=parent, record={})

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file", "parent"):
        assert str(tmp_path / name) in refused(lambda name=name: save(tmp_path / name), UsageError)
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty")
    save(tmp_path / "empty")  # a checkpoint gives way to a checkpoint
    tuned_again = load(tmp_path / "empty")
    message = refused(
        lambda: save_checkpoint(
            tmp_path / "empty", tuned(tuned_again), parent=tuned_again, record={}
        ),
        UsageError,
    )
    assert "being tuned" in message


def test_a_failure_leaves_what_was_there(parent: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "c"
    first = tuned(parent)
    save_checkpoint(folder, first, parent=parent, record={})

    def broken(partial: Path) -> None:
        (partial / "head.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, tuned(parent, seed=1), parent=parent, record={}, extra=broken)
    assert os.listdir(folder.parent) == ["c"]
    require_same(first, load(folder))


def test_more_files_are_written_with_it(parent: Encoder, tmp_path: Path) -> None:
    def head(partial: Path) -> None:
        save_file({"weight": torch.ones(2)}, partial / "head.safetensors")

    child = tuned(parent)
    save_checkpoint(tmp_path / "c", child, parent=parent, record={}, extra=head)
    assert load_file(tmp_path / "c" / "head.safetensors")["weight"].tolist() == [1, 1]
    require_same(child, load(tmp_path / "c"))
    require_plain(child, tmp_path / "c")


# -- WiSE-FT --------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tiny: Any) -> tuple[Mapping[str, torch.Tensor], Any]:
    """The parent's tensors, and a function that returns those of a mixture."""
    encoder = tiny(kind="resnet")
    child = tuned(encoder)
    start = encoder.model.state_dict()

    def mix(alpha: float) -> dict[str, torch.Tensor]:
        model = copy.deepcopy(child.model)
        mix_weights(model, start, alpha)
        return dict(model.state_dict())

    return start, mix


def test_mixtures_are_between_parent_and_child(mixed: Any) -> None:
    start, mix = mixed
    first, last, quarter = mix(0.0), mix(1.0), mix(0.25)
    assert all(torch.equal(first[name], start[name]) for name in start)
    assert any(not torch.equal(last[name], start[name]) for name in start)
    for name, tensor in quarter.items():
        if tensor.is_floating_point():
            expected = 0.75 * start[name].double() + 0.25 * last[name].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(tensor, last[name])


def test_mixtures_that_are_none_are_refused(tiny: Any) -> None:
    encoder = tiny(kind="vit")
    start = encoder.model.state_dict()
    model = copy.deepcopy(encoder.model)
    assert "alpha=1.5" in refused(lambda: mix_weights(model, start, 1.5), UsageError)
    odd = tiny(kind="resnet").model.state_dict()
    assert "not the model's parent" in refused(lambda: mix_weights(model, odd, 0.5), UsageError)
    child = tuned(encoder, "adaptformer")
    assert "adaptformer" in refused(lambda: mix_weights(child.model, start, 0.5), UsageError)
