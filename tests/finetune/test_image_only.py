"""Encoders without a text tower: heads from class means, checkpoints that plain timm loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from ltcache.cache import open_cache
from ltcache.encoder import family_of, load_encoder, read_checkpoint
from ltcache.encoder.adapters import set_checkpointing, sites_of
from ltcache.encoder.fields import ImageOnly
from ltcache.encoder.image_only import ImageEncoder
from ltcache.errors import EncoderError, IdentityError, UsageError
from ltcache.evaluate import evaluate
from ltcache.extract import extract
from ltcache.finetune import FineTuned, finetune, finetune_cache, open_fine_tuned
from ltcache.fit import fit_adapter
from ltcache.manifest import Manifest
from ltcache.runs import open_run
from tests.finetune.conftest import QUICK
from tests.finetune.test_resume import assert_same_bytes, killed, tuned

PIXELS = torch.randint(0, 256, (2, 3, 160, 160), generator=torch.Generator().manual_seed(0))
WITHOUT_TEXTS = ["full", "bias", "layer-norm", "lora", "wise-ft", "lp-ft", "lift", "lift-plus"]


def features(encoder: Any) -> torch.Tensor:
    found: torch.Tensor = encoder.encode_images(PIXELS.to(torch.uint8))["pooled"]
    return found


@pytest.fixture
def tune_timm(pictures: Manifest, tmp_path: Path) -> Any:
    """Return a function that tunes a small network of timm with random weights for one epoch."""

    def run(
        method: str, name: str = "timm:test_vit", out: str = "tuned", **options: Any
    ) -> FineTuned:
        overrides = {**QUICK, "optimisation.epochs": 1, **options.pop("overrides", {})}
        weights = options.pop("pretrained", "random:0" if name.startswith("timm:") else None)
        return finetune(
            pictures, method, tmp_path / out, model=name, pretrained=weights, overrides=overrides,
            device="cpu", workers=0, **options,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((method, "test_vit") for method in WITHOUT_TEXTS),
        *((method, "test_efficientnet") for method in ("layer-norm", "lift", "lora")),
    ],
)
def test_every_method_without_texts_moves_the_encoder_and_comes_back(
    tune_timm: Any, method: str, name: str
) -> None:
    share = {"average": 0.5} if method == "wise-ft" else {}  # val may well choose none of it
    done = tune_timm(method, f"timm:{name}", overrides=share)
    parent = load_encoder(f"timm:{name}", "random:0", device="cpu")
    assert done.record.head.init == ("probe" if method == "lp-ft" else "class_mean")
    assert done.record.logit_scale is None and done.record.templates == ()
    again = open_fine_tuned(done.path, device="cpu")
    assert not family_of(f"local-dir:{done.path}").has_texts
    assert isinstance(again.encoder, ImageEncoder) and again.record == done.record
    assert again.encoder.identity == done.encoder.identity != parent.identity
    assert set(again.encoder.identity["towers"]) == {"image"}
    assert again.encoder.provenance["parent"] == f"timm:{name},random:0"
    torch.testing.assert_close(features(again.encoder), features(done.encoder))
    assert not torch.allclose(features(done.encoder), features(parent))
    rows = torch.randn(3, done.head.dim)
    assert torch.equal(done.head(rows), again.head(rows))
    left = [adapter["name"] for adapter in done.encoder.adapters]
    assert left == (["adaptformer"] if method.startswith("lift") else [])
    assert (done.path / "config.json").exists() != bool(left)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_plain_timm_loads_what_has_no_adapters(tune_timm: Any, name: str) -> None:
    done = tune_timm("bias" if name == "test_efficientnet" else "lora", f"timm:{name}")
    file = done.path / "model.safetensors"
    expected = done.encoder.model.visual.state_dict()
    plain = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(file)}
    )
    folder = timm.create_model(f"local-dir:{done.path}", pretrained=True)
    for model in (plain, folder):
        state = model.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
    named = load_encoder(f"timm:{name}", str(file), device="cpu")
    assert named.identity == done.encoder.identity


def test_a_checkpoint_is_tuned_again_by_its_path_with_and_without_adapters(tune_timm: Any) -> None:
    first = tune_timm("lift")
    second = tune_timm("full", str(first.path), "second", overrides={"optimisation.lr": 1e-3})
    third = tune_timm("lora", f"local-dir:{second.path}", "third")
    assert [adapter["name"] for adapter in third.encoder.adapters] == ["adaptformer"]
    again = load_encoder(f"local-dir:{third.path}", device="cpu")
    assert again.identity == third.encoder.identity
    assert again.provenance["parent"] == f"local-dir:{second.path.name}"
    torch.testing.assert_close(features(again), features(third.encoder))
    whole = tune_timm("bias", out="whole")
    fourth = tune_timm("lift", f"local-dir:{whole.path}", "fourth")
    assert load_encoder(str(fourth.path), device="cpu").identity == fourth.encoder.identity
    with pytest.raises(UsageError, match="is what is being tuned"):
        tune_timm("full", str(fourth.path), "whole", overwrite=True)


def test_an_adapted_checkpoint_wants_the_weights_that_were_tuned(tune_timm: Any) -> None:
    done = tune_timm("lift")
    record = done.path / "ltcache.json"
    content = json.loads(record.read_text())
    content["parent"]["pretrained"] = "random:1"
    record.write_text(json.dumps(content))
    with pytest.raises(EncoderError, match=r"timm:test_vit,random:1, whose image tower had SHA"):
        load_encoder(f"local-dir:{done.path}", device="cpu")
    content["parent"]["model"] = "timm:test_vitt"
    record.write_text(json.dumps(content))
    with pytest.raises(EncoderError, match="Say where the parent is"):
        load_encoder(f"local-dir:{done.path}", device="cpu")
    assert read_checkpoint(done.path).family == "timm:"


@pytest.mark.parametrize(
    ("method", "overrides", "needed"),
    [
        ("ballad", {}, "loss=contrastive"),
        ("ballad-code", {}, "classifier.head=texts"),
        ("tin", {}, "classifier.head=texts"),
        ("sage", {}, "adapters=sg_adapter"),
        ("vl-ltr", {}, "loss=sentence_contrastive"),
        ("full", {"loss": "cross_entropy,contrastive"}, "loss=contrastive"),
        ("full", {"classifier.init": "text"}, "classifier.init=text"),
        ("full", {"text.train": "bias"}, "text.train=bias"),
        ("full", {"logit_scale": "trained"}, "logit_scale=trained"),
        ("full", {"template": "a {}"}, "template=a {}"),
    ],
)
def test_what_needs_texts_is_refused_with_methods_that_do_not(
    tune_timm: Any, method: str, overrides: dict[str, Any], needed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        tune_timm(method, overrides=overrides)
    said = str(caught.value)
    assert "no text tower" in said and needed in said and "\n" not in said
    offered = said.partition("take another method (")[2].partition(")")[0]
    assert sorted(offered.split(", ")) == sorted(WITHOUT_TEXTS)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_tins_gate_and_sages_loss_work_without_texts(tune_timm: Any, name: str) -> None:
    gated = tune_timm("full", f"timm:{name}", overrides={"adapters": "visual_attention"})
    again = load_encoder(f"local-dir:{gated.path}", device="cpu")
    torch.testing.assert_close(features(again), features(gated.encoder))
    plain = tune_timm("sage", f"timm:{name}", "sage", overrides={"adapters": "adaptformer"})
    assert plain.record.head.init == "class_mean"


class Unsupported(torch.nn.Module):
    """A tower as some of timm's are."""

    def set_grad_checkpointing(self, enable: bool) -> None:
        assert not enable, "gradient checkpointing not supported"


def test_towers_that_cannot_be_adapted_or_checkpointed_say_what_to_do() -> None:
    with pytest.raises(EncoderError, match=r"Unsupported; .*full, bias and layer-norm"):
        sites_of(Unsupported())
    with pytest.raises(UsageError, match=r"Unsupported: .*supported; leave --checkpointing out"):
        set_checkpointing(ImageOnly(Unsupported()))
    set_checkpointing(ImageOnly(Unsupported()), False)


def test_random_weights_are_drawn_anew(tune_timm: Any) -> None:
    still = {"optimisation.lr": 1e-9, "image.weights": "random"}
    done = tune_timm("full", overrides=still, seed=5)
    parent = load_encoder("timm:test_vit", "random:0", device="cpu")
    assert not torch.allclose(features(done.encoder), features(parent), atol=1e-2)


def test_activations_are_computed_again_to_the_same_result(tune_timm: Any) -> None:
    one, two = tune_timm("full"), tune_timm("full", out="again", checkpointing=True)
    torch.testing.assert_close(features(one.encoder), features(two.encoder))


def test_killed_and_resumed_is_as_uninterrupted(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltcache.finetune.loop._TICK", 0.0)
    options = {"pretrained": "random:0", "overrides": {"optimisation.epochs": 2}}
    arguments = {"source": pictures, "model": "timm:test_vit", "method": "lift", **options}
    killed((2, 2), {**arguments, "out": tmp_path / "killed"})
    assert (tmp_path / ".killed.tuning").exists()
    resumed = tuned(**arguments, out=tmp_path / "killed")
    assert_same_bytes(resumed, tuned(**arguments, out=tmp_path / "whole"))


def test_a_cache_is_made_again_and_old_heads_are_refused(
    pictures: Manifest, tmp_path: Path
) -> None:
    encoder = load_encoder("timm:test_vit", "random:0", device="cpu")
    extract(pictures, tmp_path / "cache", encoder=encoder)
    old = fit_adapter(tmp_path / "cache", "ncm", tmp_path / "old")
    done = finetune_cache(
        pictures, "lift", tmp_path / "lift", tmp_path / "cache", device="cpu", workers=0,
        overrides={**QUICK, "optimisation.epochs": 1},
    )  # fmt: skip
    assert done is not None and done.run is not None
    new = open_cache(tmp_path / "lift" / "cache")
    assert new.encoder == done.tuned.encoder.identity and new.image_only
    assert new.prompt_names == ()
    assert done.run.metrics["val"] == open_run(tmp_path / "lift" / "run").metrics["val"]
    with pytest.raises(IdentityError, match="towers.image"):
        evaluate(old, new, "val")
