"""One of each kind is added in a module of its own, and everything takes it.

The places that ``ltcache/README.md`` lists for them in the package are the entry in a catalogue,
which is all that is done here; those of formats stand in ``test_adding_formats.py``.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import click
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.cache import open_cache
from ltcache.cli import cli
from ltcache.cli.options import general
from ltcache.encoder import ENCODER_FAMILIES, EncoderChoice, EncoderFamily, encoder_of_cache
from ltcache.encoder.fields import PooledOnly
from ltcache.encoder.identity import tensors_digest
from ltcache.encoder.image_only import ImageEncoder
from ltcache.encoder.source import EncoderSource
from ltcache.errors import IdentityError
from ltcache.fit import LabelledRows, fit_head
from ltcache.heads import HEADS, HeadContext, LinearHead, predict_logits
from ltcache.images import Preprocessing
from ltcache.losses import LOSSES, OffsetCrossEntropy
from ltcache.methods import (
    METHODS,
    FeatureSpec,
    Method,
    Train,
    known_overrides,
    method_by_name,
    override,
)
from tests.conftest import Call

COUNTS = torch.tensor([60, 20, 8])
QUICK = {"optimisation.epochs": 8, "optimisation.min_steps": 0}


class SharpenedLoss(OffsetCrossEntropy):
    """CE(z + power log pi, y)."""

    reference, equation = "this file", "CE(z + power log pi, y)"

    def __init__(
        self, class_counts: Tensor, *, power: float = 2.0, smooth_prior: bool = False
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.set_offset(power * self.prior.log())
        self.power = power


class TemperedHead(LinearHead):
    """z = (W f + b) / temperature."""

    equation = "z = (W f + b) / temperature"

    def __init__(self, context: HeadContext, *, temperature: float = 4.0) -> None:
        super().__init__(context)
        self.temperature = temperature

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return F.linear(representation, self.weight, self.bias_vector) / self.temperature

    def affine(self) -> None:
        """See :meth:`Head.affine`: left to autograd."""


@pytest.fixture
def catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``ltcache --import MODULE`` does: the module enters its names into the catalogues."""
    module = types.ModuleType("additions")
    monkeypatch.setitem(sys.modules, "additions", module)
    monkeypatch.setitem(LOSSES, "sharpened", SharpenedLoss)
    monkeypatch.setitem(HEADS, "tempered", TemperedHead)
    method = Method(
        name="sharpened",
        title="tempered head, sharpened prior",
        feature=FeatureSpec(),
        stages=(Train(head="tempered", loss="sharpened"),),
        reference="this file",
        fidelity="exact",
        differs="nothing",
    )
    monkeypatch.setitem(METHODS, method.name, method)


def rows() -> LabelledRows:
    draw = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), COUNTS)
    means = torch.randn(3, 10, generator=draw)
    return LabelledRows(means[labels] + 3 * torch.randn(len(labels), 10, generator=draw), labels)


def logits(method: Method) -> Tensor:
    context = HeadContext(10, 3, COUNTS)
    fitted = fit_head(override(method, QUICK), rows(), context, choose=False)
    return predict_logits(fitted.head, fitted.transform(rows().features))


def test_a_loss_takes_settings_and_changes_the_fit(catalogues: None) -> None:
    method = override(METHODS["ce"], {"loss": "sharpened"})
    assert known_overrides(method)["loss.power"] == 2.0
    plain = override(METHODS["ce"], {"loss": "sharpened", "loss.power": 0.0})
    torch.testing.assert_close(logits(plain), logits(METHODS["ce"]))
    shares = [logits(m).argmax(dim=1).bincount(minlength=3)[2] for m in (method, METHODS["ce"])]
    assert shares[0] > shares[1], "the rare class gains from the prior in the loss"


def test_a_head_takes_settings_and_is_trained_in_any_method(catalogues: None) -> None:
    method = override(METHODS["logit-adjustment"], {"head": "tempered", "head.temperature": 1.0})
    torch.testing.assert_close(
        logits(method), logits(METHODS["logit-adjustment"]), rtol=1e-4, atol=1e-4
    )


def test_a_method_is_found_by_name_and_written_down(catalogues: None) -> None:
    method = method_by_name("sharpened")
    full = override(method, {"loss.power": 1.5})
    assert Method.from_dict(full.to_dict()) == full
    assert full.stages[0].head_options == {"temperature": 4.0}
    assert torch.isfinite(logits(method)).all()


@click.command("greet", short_help="Say a word.")
@click.option("--word", default="hello", show_default=True, help="Which one.")
@general
def greet(word: str, as_json: bool) -> int:
    """Say a word."""
    click.echo(json.dumps(word) if as_json else word)
    return 0


def test_a_command_is_listed_and_takes_what_every_command_takes(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "commands", dict(cli.commands))
    cli.add_command(greet)
    out = call("--help")[1]
    assert out.index("doctor  ") < out.index("greet          Say a word.")
    assert call("greet", "--json", "--word", "moth")[:2] == (0, '"moth"\n')
    (tmp_path / "words.yaml").write_text("word: newt\n")
    assert call("greet", "--config", tmp_path / "words.yaml")[:2] == (0, "newt\n")
    monkeypatch.setenv("LTCACHE_GREET_WORD", "jay")
    assert call("greet")[:2] == (0, "jay\n")
    assert "did you mean 'greet'" in call("great")[2]


class PatchMeans(torch.nn.Module):
    """A tower of a made-up library: a seeded projection of means over patches of 8 pixels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.visual = torch.nn.Sequential(
            torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(3 * 16, 12, bias=False)
        ).requires_grad_(False)
        self.visual[2].weight.copy_(torch.randn(12, 48, generator=draw))


def load_patch_means(
    choice: EncoderChoice, *, device: torch.device, precision: str
) -> ImageEncoder:
    """Load ``patches:SEED``, and identify it by its tensors."""
    model = PatchMeans(int(choice.name.removeprefix("patches:"))).eval()
    config = {"patches": 8}
    return ImageEncoder(
        model,
        None,
        EncoderSource(choice.name, config, None, "", provenance=choice.provenance),
        PooledOnly(model.visual),
        Preprocessing((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        identity={
            "architecture": {
                "name": "means of patches", "config": config, "activation": None, "adapters": None,
            },
            "towers": {"image": tensors_digest(model.visual.state_dict())},
            "tokenizer": None,
        },
        device=device,
        precision=precision,
    )  # fmt: skip


def test_an_encoder_family_makes_a_cache_that_finds_its_encoder_again(
    call: Call, monkeypatch: pytest.MonkeyPatch, few_images: Path, tmp_path: Path
) -> None:
    family = EncoderFamily(load_patch_means, has_texts=False)
    monkeypatch.setitem(ENCODER_FAMILIES, "patches:", family)
    extract = ("extract", few_images, "--out", tmp_path / "cache", "--model")
    status, _, err = call(*extract, "patches:3", "--templates", "openai")
    assert status == 2 and "patches:3 has no text tower" in err
    assert call(*extract, "patches:3")[0] == 0
    cache = open_cache(tmp_path / "cache")
    assert cache.encoder["architecture"]["name"] == "means of patches"
    assert cache.provenance["model"] == "patches:3" and cache.field_dims() == {"pooled": 12}
    assert cache.image_only and cache.prompt_names == ()
    encoder = encoder_of_cache(cache)
    assert encoder.identity == cache.encoder
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    expected = -PatchMeans(3).visual[2].weight.sum(dim=1)  # black is -1 once it is normalised
    torch.testing.assert_close(encoder.encode_images(pixels)["pooled"][0], expected)
    with pytest.raises(IdentityError, match=r"towers\.image"):
        encoder_of_cache(cache, EncoderChoice("patches:4"))
    tuning = ("finetune", few_images, "--method", "bias", "--out", tmp_path / "tuned")
    status, _, err = call(*tuning, "--model", "patches:3")
    assert status == 2 and "means of patches is not tuned" in err
    assert call("verify", tmp_path / "cache", "--sample", 4, "--root", few_images)[0] == 0
    assert (
        call("fit-adapter", tmp_path / "cache", "--method", "ncm", "--out", tmp_path / "run")[0]
        == 0
    )
    status, out, _ = call("predict", tmp_path / "run", few_images / "moth" / "000.png", "--json")
    assert status == 0 and json.loads(out)["names"][0] == "moth"
