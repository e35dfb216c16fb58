"""Into a cache and out of it: bit-equal round trips, every layout, stages that accept it all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ltcache.cache import open_cache
from ltcache.cache.verify import verify_files
from ltcache.cli import main
from ltcache.encoder import load_encoder
from ltcache.errors import CacheError, FitError, IdentityError, ManifestError, UsageError
from ltcache.evaluate import evaluate
from ltcache.evaluate.prediction import predict
from ltcache.extract import extract
from ltcache.fit import fit_adapter
from ltcache.transfer import export_bundle, export_cache, import_features
from ltcache.transfer.bundle import _load_script
from ltcache.transfer.layouts import guess_layout
from ltcache.zero_shot import zero_shot
from tests.conftest import Call, write_images

SHORT = {"optimisation.epochs": 3}
RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(3, 16))
LABELS = np.repeat([0, 1, 2], [30, 12, 5])
TEST = np.repeat([0, 1, 2], 6)


def _features(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(len(labels), 16))
    return (MEANS[labels] + 0.3 * noise).astype(np.float32)


def _named(**more: Any) -> dict[str, np.ndarray]:
    return {
        "train_features": _features(LABELS),
        "train_labels": LABELS,
        "test_features": _features(TEST, 1),
        "test_labels": TEST,
        "text_features": MEANS.astype(np.float32),
        **more,
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for split, counts in {"train": (14, 6), "test": (4, 4)}.items():
        write_images(root / split, dict(zip(("red fox", "moth"), counts, strict=True)))
    (root / "train" / "moth" / "bad.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Any:
    return load_encoder(f"local-dir:{tiny_clip}", device="cpu")


@pytest.fixture(scope="module")
def cache(images: Path, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("transfer") / "cache"
    extract(images, out, encoder=encoder, shard_size=10)
    return out


# --- round trip -----------------------------------------------------------------------------------


def test_a_cache_comes_back_bit_equal(cache: Path, tmp_path: Path) -> None:
    export_cache(cache, tmp_path / "plain")
    report = import_features(tmp_path / "plain", tmp_path / "again", shard_size=7)
    assert report.restored and report.layout == "ltcache" and report.failed == 1
    old, new = open_cache(cache), open_cache(tmp_path / "again")
    rows = np.arange(len(old.manifest))
    for field in ("embedding", "pooled"):
        a, b = old.row_features(rows, field), new.row_features(rows, field)
        assert a.tobytes() == b.tobytes()
        assert np.isnan(b[old.manifest.rows["status"].to_numpy() == "failed"]).all()
    assert new.identities(prompts=new.prompts()) == old.identities(prompts=old.prompts())
    for column in ("key", "uri", "label", "split", "status", "error", "sha256", "width"):
        assert new.manifest.rows[column].to_pylist() == old.manifest.rows[column].to_pylist()
    assert np.array_equal(new.prompts().sentences, old.prompts().sentences)
    assert new.logit_scale == old.logit_scale
    assert np.array_equal(new.projection, old.projection)  # type: ignore[arg-type]
    assert verify_files(tmp_path / "again").problems == ()
    run = fit_adapter(old, "lift-lp", overrides=SHORT)
    assert evaluate(run, new) == run.metrics["test"]  # a run takes it as the cache it was


def test_an_export_is_plain_numpy_and_parquet(cache: Path, tmp_path: Path) -> None:
    report = export_cache(cache, tmp_path / "plain")
    assert {"embedding.npy", "pooled.npy", "rows.parquet", "README.md"} <= set(report.files)
    features = np.load(tmp_path / "plain" / "embedding.npy")
    rows = pq.read_table(tmp_path / "plain" / "rows.parquet")
    assert features.dtype == np.float16 and features.shape == (rows.num_rows, 32)
    ok = rows["status"].to_numpy() == "ok"
    opened = open_cache(cache)
    assert np.array_equal(features[ok].astype(np.float32), opened.features()[:, 0])
    with np.load(tmp_path / "plain" / "prompts-default.npz") as prompts:
        assert np.array_equal(prompts["mean"], opened.prompts().mean)
    with pytest.raises(UsageError, match="exists already"):
        export_cache(cache, tmp_path / "plain")


def test_a_changed_export_does_not_keep_the_identity(cache: Path, tmp_path: Path) -> None:
    export_cache(cache, tmp_path / "plain")
    path = tmp_path / "plain" / "embedding.npy"
    features = np.load(path)
    np.save(path, features * 2)
    report = import_features(tmp_path / "plain", tmp_path / "again")
    assert not report.restored and "changed" in report.notes[0]
    run = fit_adapter(open_cache(cache), "ce", overrides=SHORT)
    with pytest.raises(IdentityError):
        evaluate(run, tmp_path / "again")


# --- arrays ---------------------------------------------------------------------------------------


def _write(kind: str, folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    if kind == "npz":
        np.savez(folder / "all.npz", **arrays)  # type: ignore[arg-type]
        return folder / "all.npz"
    if kind == "safetensors":
        save_file(tensors, folder / "all.safetensors")
        return folder / "all.safetensors"
    if kind == "pt":
        torch.save(tensors, folder / "all.pt")
        return folder / "all.pt"
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_features_of_small_length_keep_their_direction(tmp_path: Path) -> None:
    features = _features(LABELS)
    features[7] *= 1e-7
    features[8] *= 1e-12
    source = _write("npz", tmp_path / "source", _named(train_features=features))
    import_features(source, tmp_path / "cache", logit_scale=100, shard_size=20)
    cache = open_cache(tmp_path / "cache")
    assert verify_files(cache.path).problems == ()
    assert np.array_equal(cache.features("train")[:20, 0], features[:20])
    assert zero_shot(cache, "train").metrics.overall == 1


@pytest.mark.parametrize(
    ("method", "view"), [("tade", "rrc:2"), ("paco", "rrc:2"), ("ce+cmo", "cmo:2")]
)
def test_views_that_an_import_lacks_are_said_to_need_images(
    method: str, view: str, tmp_path: Path
) -> None:
    source = _write("npz", tmp_path / "source", _named())
    import_features(source, tmp_path / "cache", logit_scale=100)
    cache = open_cache(tmp_path / "cache")
    with pytest.raises(
        CacheError, match=f"no view '{view}'.*imported, and views are made of images"
    ):
        fit_adapter(cache, method)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pt", "npy"])
def test_every_later_stage_accepts_an_import(kind: str, tmp_path: Path) -> None:
    source = _write(kind, tmp_path / "source", _named())
    report = import_features(source, tmp_path / "cache", logit_scale=100, shard_size=20)
    assert dict(report.rows) == {"train": 47, "test": 18} and report.classes == 3
    cache = open_cache(tmp_path / "cache")
    assert np.array_equal(
        cache.features("train")[:, 0].astype(np.float16), _features(LABELS).astype(np.float16)
    )
    assert cache.labels("test").tolist() == TEST.tolist()
    assert verify_files(cache.path).problems == ()
    assert zero_shot(cache).metrics.overall == 1
    for method in ("ce", "lift-lp", "logit-adjustment"):
        run = fit_adapter(cache, method, tmp_path / method, overrides=SHORT)
        assert evaluate(tmp_path / method) == run.metrics["test"]
    assert run.record.identities["encoder"]["imported"]["name"] == source.stem
    with pytest.raises(UsageError, match="were imported"):
        predict(run, [])


def test_images_alone_are_enough(tmp_path: Path) -> None:
    np.save(tmp_path / "clip_b16.npy", _features(LABELS))
    np.save(tmp_path / "y.npy", LABELS)
    (tmp_path / "classes.txt").write_text("blue jay\nmoth\nnewt\n")
    import_features(
        tmp_path / "clip_b16.npy", tmp_path / "cache", name="my CLIP", labels=tmp_path / "y.npy",
        classes=tmp_path / "classes.txt", feature_field="pooled",
    )  # fmt: skip
    cache = open_cache(tmp_path / "cache")
    assert cache.field_dims() == {"pooled": 16} and cache.prompt_names == ()
    assert tuple(cache.classes.names) == ("blue jay", "moth", "newt")
    assert fit_adapter(cache, "lift-lp", overrides=SHORT).record.init == ("class_mean",)
    import_features(tmp_path / "clip_b16.npy", tmp_path / "pool", split="pool")
    assert len(open_cache(tmp_path / "pool").rows("pool")) == 47


def test_labels_may_be_names_and_splits_a_list(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", _features(LABELS))
    names = np.array(["newt", "moth", "jay"])[LABELS]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    splits = ["train", "test"] * 23 + ["train"]
    import_features(
        tmp_path / "f.npy", tmp_path / "c", labels=tmp_path / "labels.txt", splits=splits
    )
    cache = open_cache(tmp_path / "c")
    assert tuple(cache.classes.names) == ("jay", "moth", "newt")
    assert cache.splits == ("train", "test")
    assert [cache.classes.names[label] for label in cache.labels("test")] == names[1::2].tolist()


def test_labels_in_other_forms(tmp_path: Path) -> None:
    forms: dict[str, Any] = {
        "column": LABELS[:, None],
        "one_hot": np.eye(3)[LABELS],
        "floating": LABELS.astype(np.float32),
    }
    np.save(tmp_path / "f.npy", _features(LABELS))
    for name, labels in forms.items():
        import_features(tmp_path / "f.npy", tmp_path / name, labels=labels)
        assert open_cache(tmp_path / name).labels().tolist() == LABELS.tolist()
    some = np.array(["a", None, "b"] + [""] * 44, dtype=object)
    import_features(tmp_path / "f.npy", tmp_path / "some", labels=some)
    cache = open_cache(tmp_path / "some")
    assert tuple(cache.classes.names) == ("a", "b")
    assert cache.labels().tolist() == [0, -1, 1] + [-1] * 44


def test_a_manifest_names_the_rows(images: Path, encoder: Any, cache: Path, tmp_path: Path) -> None:
    old = open_cache(cache)
    features = old.row_features(np.arange(len(old.manifest)))[:, 0]
    np.save(tmp_path / "f.npy", features)
    report = import_features(tmp_path / "f.npy", tmp_path / "c", manifest=images, encoder_of=cache)
    assert report.failed == 1 and report.exit_status == 3
    new = open_cache(tmp_path / "c")
    assert new.manifest.rows["key"].to_pylist() == old.manifest.rows["key"].to_pylist()
    assert new.encoder == old.encoder
    with pytest.raises(UsageError, match="lists 29 rows for 28"):
        np.save(tmp_path / "g.npy", features[1:])
        import_features(tmp_path / "g.npy", tmp_path / "d", manifest=images)


def test_an_import_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    source = _write("npz", tmp_path / "s", _named())
    out = tmp_path / "cache"
    import_features(source, out, shard_size=10)
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "cache.json").unlink()
    (out / "views" / "center" / "00003.json").unlink()
    import_features(source, out, shard_size=10)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first
    assert import_features(source, out, shard_size=10).rows["train"] == 47
    other = _write("npz", tmp_path / "o", _named(test_features=_features(TEST, 5)))
    with pytest.raises(IdentityError):
        import_features(other, out, shard_size=10)


def test_rows_that_are_no_features_fail_alone(tmp_path: Path) -> None:
    features = _features(LABELS)
    features[3, 2], features[5] = np.nan, 0
    np.savez(tmp_path / "a.npz", features=features, labels=LABELS)
    report = import_features(tmp_path / "a.npz", tmp_path / "c")
    assert report.failed == 2
    cache = open_cache(tmp_path / "c")
    assert len(cache.rows()) == 45
    assert verify_files(cache.path).problems == ()


# --- layouts of others ----------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["{}", "{:02d}"])  # padded from ten parts on
def test_clip_retrieval(written: str, tmp_path: Path) -> None:
    features = _features(LABELS).astype(np.float16)
    for folder in ("img_emb", "metadata", "text_emb"):
        (tmp_path / "cr" / folder).mkdir(parents=True)
    np.save(tmp_path / "cr" / "text_emb" / "text_emb_0.npy", features)
    for number in range(12):  # 10 follows 9, not 1
        part = slice(number * 4, number * 4 + 4) if number < 11 else slice(44, None)
        named = written.format(number)
        np.save(tmp_path / "cr" / "img_emb" / f"img_emb_{named}.npy", features[part])
        paths = [f"img{k}.jpg" for k in range(47)][part]
        table = pa.table({"image_path": paths, "caption": paths})
        pq.write_table(table, tmp_path / "cr" / "metadata" / f"metadata_{named}.parquet")
    assert guess_layout(tmp_path / "cr") == "clip-retrieval"
    report = import_features(tmp_path / "cr", tmp_path / "c", split="pool")
    assert "captions" in report.notes[0]
    cache = open_cache(tmp_path / "c")
    assert cache.manifest.rows["key"].to_pylist() == [f"img{k}.jpg" for k in range(47)]
    assert np.array_equal(cache.features("pool")[:, 0].astype(np.float16), features)
    assert (cache.labels("pool") == -1).all()
    (tmp_path / "cr" / "metadata" / f"metadata_{written.format(3)}.parquet").unlink()
    report = import_features(tmp_path / "cr", tmp_path / "d", split="pool")
    assert f"metadata lacks metadata_{written.format(3)}.parquet" in report.notes[0]


def test_tip_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "tip"
    folder.mkdir()
    unit = torch.nn.functional.normalize(torch.from_numpy(_features(LABELS)), dim=1).half()
    torch.save(unit.T, folder / "keys_16shots.pt")
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(LABELS)).half()
    torch.save(one_hot, folder / "values_16shots.pt")
    for split in ("val", "test"):
        torch.save(torch.from_numpy(_features(TEST)).half(), folder / f"{split}_f.pt")
        torch.save(torch.from_numpy(TEST), folder / f"{split}_l.pt")
    assert guess_layout(folder) == "tip-adapter"
    report = import_features(folder, tmp_path / "c", text=MEANS)
    assert dict(report.rows) == {"train": 47, "val": 18, "test": 18}
    cache = open_cache(tmp_path / "c")
    assert cache.labels("train").tolist() == LABELS.tolist() and cache.logit_scale == 100
    assert np.array_equal(cache.features("train")[:, 0], unit.float().numpy())
    assert zero_shot(cache).metrics.overall == 1
    torch.save(unit.T, folder / "keys_8shots.pt")
    with pytest.raises(UsageError, match="expected one keys"):
        import_features(folder, tmp_path / "d")


# --- refusals -------------------------------------------------------------------------------------


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_nothing_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"features": _Payload()}, tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.array([_Payload()], dtype=object), allow_pickle=True)
    for name in ("a.pt", "a.npy"):
        with pytest.raises(UsageError, match="cannot be read"):
            import_features(tmp_path / name, tmp_path / "c")
    assert "executed" not in capsys.readouterr().out
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("arrays", "options", "reason"),
    [
        ({"features": _features(LABELS), "labels": LABELS[1:]}, {}, "labels"),
        ({"features": _features(LABELS), "labels": LABELS - 2}, {}, "labels run from -2"),
        ({"features": _features(LABELS), "labels": LABELS + 0.5}, {}, "whole numbers"),
        ({"features": _features(LABELS), "labels": np.ones((47, 3))}, {}, "not one-hot"),
        ({"features": LABELS, "labels": LABELS}, {}, "no features"),
        ({"labels": LABELS, "other": LABELS}, {}, "no array is named"),
        ({"features": _features(LABELS)[:0], "labels": LABELS[:0]}, {}, "no rows"),
        ({"train_features": _features(LABELS), "test_features": _features(TEST)[:, :5]}, {},
         "different shapes"),
        ({"features": _features(LABELS), "labels": LABELS}, {"classes": ["a"]}, "1 classes"),
        ({"features": _features(LABELS), "labels": LABELS}, {"text": MEANS[:, :5]}, "class texts"),
        ({"features": _features(LABELS), "labels": LABELS}, {"text": 0 * MEANS}, "zero rows"),
        ({"features": _features(LABELS), "labels": LABELS}, {"feature_field": "x"}, "neither"),
        ({"features": _features(LABELS)}, {"labels": np.array(["a"] * 47), "classes": ["b"]},
         "labels line 1: 'a' is none of the 1 classes"),
        ({"features": _features(LABELS)}, {"layout": "hdf5"}, "unknown layout"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    arrays: dict[str, Any], options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises((UsageError, ManifestError), match=reason):
        import_features(tmp_path / "a.npz", tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_places_and_files_that_are_others(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _features(LABELS))
    with pytest.raises(UsageError, match="not empty"):
        import_features(tmp_path / "a.npy", tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        import_features(tmp_path / "b.npy", tmp_path / "c")
    (tmp_path / "a.bin").touch()
    with pytest.raises(UsageError, match="features are read from"):
        import_features(tmp_path / "a.bin", tmp_path / "c")
    (tmp_path / "e").mkdir()
    with pytest.raises(UsageError, match=r"no \.npy"):
        import_features(tmp_path / "e", tmp_path / "c")
    (tmp_path / "e" / "export.json").write_text("{}")
    with pytest.raises(UsageError, match="not a whole export"):
        import_features(tmp_path / "e", tmp_path / "c")


# --- bundles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("ce", {}),
        ("lift-lp", {"feature.field": "embedding"}),
        ("ce", {"feature.transform": "standardize"}),
        ("ce", {"feature.transform": "center_l2", "feature.field": "embedding"}),
    ],
)
def test_a_bundle_gives_the_runs_probabilities(
    method: str, overrides: dict[str, str], images: Path, cache: Path, encoder: Any, tmp_path: Path
) -> None:
    run = fit_adapter(cache, method, overrides={**SHORT, **overrides})
    out = export_bundle(run, tmp_path / "bundle", encoder=encoder)
    file = images / "test" / "moth" / "000.png"
    classifier = _load_script(out / "classify.py").Classifier(out / "bundle.safetensors")
    with Image.open(file) as image, torch.no_grad():
        shares = classifier(classifier.preprocess(image)[None]).softmax(1)[0]
    (expected,) = predict(run, [file], encoder=encoder)
    found = shares[list(expected.labels)].tolist()
    assert found == pytest.approx(list(expected.probabilities), abs=2e-3)  # rounded as in a cache


def test_a_bundle_runs_without_ltcache(
    images: Path, cache: Path, encoder: Any, tmp_path: Path
) -> None:
    run = fit_adapter(cache, "ce", overrides=SHORT)
    script = export_bundle(run, tmp_path / "bundle", encoder=encoder) / "classify.py"
    file = images / "test" / "moth" / "000.png"
    code = (
        "import sys, runpy; sys.modules['ltcache'] = None\n"  # importing it would fail
        f"sys.argv = ['classify.py', {str(file)!r}]\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    path, first, _ = result.stdout.split("\t")
    (expected,) = predict(run, [file], encoder=encoder)
    name, share = first.split("=")
    assert (path, name) == (str(file), expected.names[0])
    assert float(share) == pytest.approx(expected.probabilities[0], abs=2e-3)


@pytest.mark.parametrize(
    ("method", "overrides", "equal"),
    [
        ("ce", {"feature.transform": "none", "head.bias": "false"}, False),
        ("ce", {"feature.transform": "l2", "head.bias": "false"}, True),
        ("lift-lp", {}, True),
    ],
)
def test_an_exported_head_takes_the_place_of_open_clips_zero_shot_matrix(
    method: str,
    overrides: dict[str, str],
    equal: bool,
    images: Path,
    cache: Path,
    tiny_clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**SHORT, "feature.field": "embedding", **overrides}
    run = fit_adapter(cache, method, tmp_path / "run", overrides=settings)
    named = ["--model", f"local-dir:{tiny_clip}"]
    with pytest.raises(SystemExit) as caught:
        main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "bundle"), *named])
    assert not caught.value.code and "zero_shot.safetensors" in capsys.readouterr().out
    weight = load_file(tmp_path / "bundle" / "zero_shot.safetensors")["weight"]
    assert weight.shape == (32, 2)  # (D, C), as open_clip.build_zero_shot_classifier gives it
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    files = sorted(p for p in images.rglob("*.png") if p.name != "bad.png")
    pixels = torch.stack([preprocess(Image.open(file)) for file in files])
    with torch.no_grad():
        embedding = model.eval().encode_image(pixels)
        logits = torch.nn.functional.normalize(embedding, dim=1) @ weight
    assert torch.equal(logits.argmax(1), (embedding @ weight).argmax(1))
    expected = torch.from_numpy(run.logits(embedding.numpy()))
    assert torch.equal(logits.argmax(1), expected.argmax(1))
    assert torch.allclose(logits, expected, atol=1e-4) == equal
    text = (tmp_path / "bundle" / "README.md").read_text()
    assert ("run's logits in every entry" in text) == equal
    every = np.arange(len(open_cache(cache).manifest))
    rows = open_cache(cache).row_features(every)[:, 0]  # and on what the cache holds
    found = (torch.from_numpy(rows) @ weight).argmax(1).numpy()
    ok = open_cache(cache).rows()
    assert np.array_equal(found[ok], run.logits(rows[ok]).argmax(1))


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"feature.field": "embedding", "feature.transform": "none"}, "the head has a bias"),
        ({"feature.field": "pooled", "head.bias": "false"}, "takes 'pooled' features"),
        (
            {"feature.field": "embedding", "feature.transform": "center_l2", "head.bias": "false"},
            "subtracts a mean",
        ),
    ],
)
def test_what_is_no_zero_shot_matrix_says_why(
    overrides: dict[str, str], why: str, cache: Path, encoder: Any, tmp_path: Path
) -> None:
    run = fit_adapter(cache, "ce", overrides={**SHORT, **overrides})
    out = export_bundle(run, tmp_path / "bundle", encoder=encoder)
    assert not (out / "zero_shot.safetensors").exists()
    assert why in (out / "README.md").read_text()


def test_a_bundle_needs_the_runs_encoder_and_one_product(
    cache: Path, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fit_adapter(cache, "ce", overrides=SHORT)
    monkeypatch.setitem(run.record.identities, "encoder", {"towers": {"image": "x"}})
    with pytest.raises(IdentityError):
        export_bundle(run, tmp_path / "b", encoder=encoder)
    monkeypatch.setattr(type(run.head), "affine", lambda _: None)
    with pytest.raises(FitError, match="not one product"):
        export_bundle(run, tmp_path / "b", encoder=encoder)
    assert list(tmp_path.iterdir()) == []


def test_the_commands(cache: Path, tiny_clip: Path, tmp_path: Path, call: Call) -> None:
    assert call("export", cache, "--out", tmp_path / "plain")[0] == 0
    status, out, err = call("import", tmp_path / "plain", "--out", tmp_path / "again")
    assert status == 3 and "train 21" in out and "1 rows failed" in err
    assert call("inspect", tmp_path / "again")[0] == 0
    source = _write("npz", tmp_path / "s", _named())
    status, out, _ = call("import", source, "--out", tmp_path / "c", "--json")
    assert status == 0 and json.loads(out)["classes"] == 3
    status, out, err = call("inspect", tmp_path / "c")
    assert status == 0 and "imported all" in out, err
    assert call("verify", tmp_path / "c")[0] == 0
    assert call("diff", tmp_path / "c", tmp_path / "c")[0] == 0
    status, _, err = call("prompts", tmp_path / "c", "--templates", "openai-simple")
    assert status == 2 and "were imported" in err
    fit_adapter(cache, "ce", tmp_path / "run", overrides=SHORT)
    status, _, err = call("export", tmp_path / "run", "--out", tmp_path / "b")
    assert status == 2 and "--model" in err
    named = ("--model", f"local-dir:{tiny_clip}")
    status, out, _ = call("export", tmp_path / "run", "--out", tmp_path / "b", *named)
    assert status == 0 and "bundle.safetensors" in out
    assert call("import", tmp_path / "no.npy", "--out", tmp_path / "x")[0] == 2
    for name in ("import", "export"):
        assert f"ltcache {name}" in call(name, "--help")[1]
