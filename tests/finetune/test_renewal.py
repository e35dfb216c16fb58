"""The cache after fine-tuning: same rows, views and fields, none of the parent's features."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ltcache.cache import Cache, open_cache
from ltcache.encoder import Encoder, load_encoder
from ltcache.encoder.adapters import AdapterContext, AdapterSpec, insert_adapters
from ltcache.errors import IdentityError
from ltcache.extract import extract
from ltcache.finetune.renewal import check_renewal, renew
from ltcache.manifest import Manifest, read_manifest

pytestmark = pytest.mark.filterwarnings("ignore:.*on disk")  # what tokens are going to take


@pytest.fixture(scope="module")
def parent(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}", device="cpu")


@pytest.fixture(scope="module")
def manifest(few_images: Path) -> Manifest:
    return read_manifest(few_images)


@pytest.fixture(scope="module")
def cache(parent: Encoder, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    out = tmp_path_factory.mktemp("renewal") / "cache"
    options = {"views": ["rrc:2", "cmo:2"], "view_seed": 7, "fields": ["embedding", "tokens"]}
    with pytest.warns(UserWarning, match="on disk"):  # tokens are large
        extract(manifest, out, encoder=parent, threads=1, **options)
    return open_cache(out)


def moved(parent: Encoder, *adapters: str) -> Encoder:
    """Return an encoder that a training could have made of its parent."""
    model = copy.deepcopy(parent.model)
    context = AdapterContext(num_classes=3)
    insert_adapters(model, [AdapterSpec(name) for name in adapters], context=context)
    with torch.no_grad():
        for name, tensor in model.visual.named_parameters():
            if not adapters or "adapters" in name:
                tensor.add_(0.05)
    return parent.with_model(model)


def test_views_keep_their_seed_and_fields(
    cache: Cache, parent: Encoder, manifest: Manifest, tmp_path: Path
) -> None:
    child = moved(parent)
    renew(cache, child, manifest, tmp_path / "new", cost={"finetune_seconds": 3.0})
    new = open_cache(tmp_path / "new")
    assert new.encoder == child.identity != cache.encoder
    for view in ("center", "rrc:2", "cmo:2"):
        assert new.identities(view)["view"] == cache.identities(view)["view"]
        assert new.field_shapes(view) == cache.field_shapes(view)
        assert not np.allclose(new.features("train", "embedding", view),
                               cache.features("train", "embedding", view))  # fmt: skip


def test_tokens_that_an_adapted_tower_has_not_are_left_out_with_a_warning(
    cache: Cache, parent: Encoder, manifest: Manifest, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level(logging.WARNING, "ltcache"):
        renew(cache, moved(parent, "adaptformer"), manifest, tmp_path / "new")
    assert "tokens: not in the new cache" in caplog.text
    assert set(open_cache(tmp_path / "new").field_shapes()) == {"embedding"}


def test_a_template_replaces_those_of_the_cache(
    cache: Cache, parent: Encoder, manifest: Manifest, tmp_path: Path
) -> None:
    renew(cache, moved(parent), manifest, tmp_path / "new", template="The image is a {}")
    texts = open_cache(tmp_path / "new").prompts().texts
    assert all(text[0].startswith("The image is a ") for text in texts)


def test_other_rows_and_other_parents_are_refused(
    cache: Cache, parent: Encoder, manifest: Manifest, tmp_path: Path
) -> None:
    fewer = replace(manifest, rows=manifest.rows.slice(0, len(manifest) - 1))
    with pytest.raises(IdentityError, match="num_rows"):
        check_renewal(cache, fewer, parent)
    with pytest.raises(IdentityError, match="num_rows"):
        renew(cache, moved(parent), fewer, tmp_path / "new")
    with pytest.raises(IdentityError, match="towers.image"):
        check_renewal(cache, manifest, moved(parent))
    assert check_renewal(cache, manifest, parent) is cache and not (tmp_path / "new").exists()
