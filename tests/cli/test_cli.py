"""The command line as a person types it: results on stdout, messages on stderr, honest statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ltcache.cli import main
from tests.conftest import Call, write_images
from tests.encoder.tiny_models import write_tiny_clip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a long-tailed set with three splits, as folders."""
    root = tmp_path_factory.mktemp("birds")
    for split, counts in {"train": (40, 12, 6), "val": (4, 4, 4), "test": (6, 6, 6)}.items():
        names = ("blue jay", "moth", "newt")
        write_images(root / split, dict(zip(names, counts, strict=True)))
    return root


@pytest.fixture(scope="module")
def cache(images: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished cache of :func:`images`, made by the command."""
    out = tmp_path_factory.mktemp("cli") / "cache"
    model = f"local-dir:{tiny_clip}"
    with pytest.raises(SystemExit) as caught:
        main(["extract", str(images), "--out", str(out), "--model", model, "--threads", "1"])
    assert caught.value.code == 0
    return out


def test_help_teaches_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from ltcache.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: status = end.code\n"
        "heavy = {'torch', 'open_clip', 'numpy', 'h5py', 'sklearn', 'pyarrow', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "ltcache demo" in result.stdout
    assert result.stdout.endswith("[] 0\n")


@pytest.mark.parametrize(
    "name",
    [
        "demo",
        "inspect",
        "extract",
        "prompts",
        "zero-shot",
        "fit-adapter",
        "finetune",
        "evaluate",
        "methods",
    ],
)
def test_every_command_has_a_help_with_an_example(call: Call, name: str) -> None:
    status, out, _ = call(name, "--help")
    assert status == 0
    assert "--json" in out
    assert f"ltcache {name}" in out


def test_the_way_from_images_to_scores(call: Call, cache: Path, tmp_path: Path) -> None:
    status, out, _ = call("inspect", cache)
    assert status == 0
    assert "88 ok" in out
    assert "many 0, medium 1, few 2 classes" in out
    status, out, _ = call("zero-shot", cache, "--split", "val")
    assert status == 0
    assert "| zero-shot, default prompts |" in out
    assert "val split, 12 images" in out
    run = tmp_path / "run"
    setting = ("-s", "optimisation.epochs=5", "-s", "loss.tau=0.5")
    status, out, _ = call("fit-adapter", cache, "--out", run, *setting)
    assert status == 0
    assert "| logit-adjustment (loss.tau=0.5), test |" in out
    assert "epoch chosen on val" in out
    status, out, _ = call("evaluate", run, "--split", "test")
    assert status == 0
    assert "macro-F1" in out
    again = json.loads(call("evaluate", run, "--json")[1])
    stored = json.loads((run / "metrics.json").read_text())
    assert again["mean_per_class"] == stored["splits"]["test"]["mean_per_class"]
    config = json.loads((run / "config.json").read_text())
    assert "0.5" in json.dumps(config)


def test_a_fit_that_ended_too_early_is_said_and_recorded(
    call: Call, cache: Path, tmp_path: Path
) -> None:
    still = ("-s", "optimisation.lr=1e-9", "-s", "loss=focal")
    status, out, err = call("fit-adapter", cache, "--method", "ce", "--out", tmp_path, *still)
    assert status == 0 and "ce (loss=focal), test" in out
    assert "warning: ce (loss=focal) ended before it had fitted its own training rows" in err
    assert json.loads((tmp_path / "run.json").read_text())["training"]["unfitted"] is True


def test_seeds_give_mean_and_spread(call: Call, cache: Path, tmp_path: Path) -> None:
    few = ("--seeds", "2", "-s", "optimisation.epochs=3")
    status, out, _ = call("fit-adapter", cache, "--method", "ce", "--out", tmp_path / "r", *few)
    assert status == 0
    assert "2 seeds, mean ± sd" in out
    assert (tmp_path / "r" / "seed-1" / "run.json").exists()


def test_inspect_takes_classes_as_extract_does(call: Call, images: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("newt\nwren\nblue jay\nmoth\n")
    status, out, _ = call("inspect", images, "--classes", names)
    assert status == 0 and "88 images, 4 classes" in out
    assert "1 class(es) have no image in the split 'train': 1 (wren)" in out
    (tmp_path / "train.csv").write_text("path,label\ntrain/newt/000.png,3\n")
    status, out, _ = call("inspect", tmp_path / "train.csv", "--root", images, "--classes", names)
    assert status == 0 and "1 image, 4 classes" in out and "3 class(es) have no image" in out
    status, out, _ = call("inspect", images, "--unlabelled")
    assert status == 0 and "88 images, 0 classes" in out


@pytest.mark.parametrize("option", ["--classes", "--root"])
def test_inspect_refuses_what_a_cache_would_ignore(call: Call, cache: Path, option: str) -> None:
    status, _, err = call("inspect", cache, option, cache.parent)
    assert status == 2 and option in err and "cache" in err


def test_extraction_takes_other_templates(
    call: Call, images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    made = ("--model", f"local-dir:{tiny_clip}", "--threads", 1, "--templates", "openai-simple")
    assert call("extract", images, "--out", tmp_path / "c", *made)[0] == 0
    assert "prompts default: 21 sentences" in call("inspect", tmp_path / "c")[1]


def test_json_for_machines(call: Call, cache: Path, images: Path, tmp_path: Path) -> None:
    assert json.loads(call("inspect", images, "--json")[1])["num_classes"] == 3
    assert "lift-lp" in json.loads(call("methods", "--json")[1])["fit-adapter"]
    assert json.loads(call("methods", "ce", "--json")[1])["settings"]["head"] == "linear"
    assert 0 <= json.loads(call("zero-shot", cache, "--json")[1])["overall"] <= 1
    few = ("-s", "optimisation.epochs=2", "--json")
    found = json.loads(call("fit-adapter", cache, "--out", tmp_path / "r", *few)[1])
    assert set(found["splits"]) == {"val", "test"}


def test_prompts_that_a_method_does_not_use_are_said(
    call: Call, cache: Path, tmp_path: Path
) -> None:
    quick = ("--prompts", "default", "-s", "optimisation.epochs=1")
    status, _, err = call("fit-adapter", cache, "--method", "crt", "--out", tmp_path / "r", *quick)
    assert status == 0 and "crt uses no class texts" in err
    used = ("--method", "ballad", "--out", tmp_path / "b", *quick)
    assert "no class texts" not in call("fit-adapter", cache, *used)[2]


def test_prompts_are_added_by_their_own_encoder(
    call: Call, cache: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    templates = tmp_path / "mine.txt"
    templates.write_text("a photo of a {}.\nart of a {c}.\n")
    status, _, err = call("prompts", cache, "--templates", templates)
    assert status == 2
    assert "name it with --model" in err
    model = ("--model", f"local-dir:{tiny_clip}")
    status, out, _ = call("prompts", cache, "--templates", templates, *model)
    assert status == 0
    assert "6 sentences of 3 classes" in out
    assert call("zero-shot", cache, "--prompts", "mine")[0] == 0
    assert call("prompts", cache, "--templates", "openai-simple", *model, "--json")[0] == 0
    other = write_tiny_clip(tmp_path / "other", seed=3)
    status, _, err = call(
        "prompts", cache, "--templates", templates, "--model", f"local-dir:{other}"
    )
    assert status == 4
    assert "towers.text" in err


def test_features_of_another_encoder_or_class_list_are_refused(
    call: Call, cache: Path, images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert call("fit-adapter", cache, "--out", run, "-s", "optimisation.epochs=2")[0] == 0
    other = write_tiny_clip(tmp_path / "other", seed=5)
    made = ("--model", f"local-dir:{other}", "--threads", 1)
    assert call("extract", images, "--out", tmp_path / "stale", *made)[0] == 0
    status, out, err = call("evaluate", run, "--cache", tmp_path / "stale")
    assert (status, out) == (4, "")
    assert "towers.image" in err
    allowed = ("--allow-stale", "encoder")
    status, out, _ = call("evaluate", run, "--cache", tmp_path / "stale", *allowed)
    assert status == 0
    assert "allowed stale: encoder.towers.image" in out
    renamed = tmp_path / "renamed"
    for split in ("train", "test"):
        write_images(renamed / split, {"blue jay": 3, "moth": 3, "another newt": 3})
    status, _, err = call("evaluate", run, "--cache", _extract(call, renamed, cache, tmp_path))
    assert status == 4
    assert "3 of 3 classes differ: label 0: 'blue jay' expected, 'another newt' found" in err


def _extract(call: Call, images: Path, like: Path, tmp_path: Path) -> Path:
    """Extract with the encoder of the ``tiny_clip`` fixture, found by its seed."""
    model = write_tiny_clip(tmp_path / "tiny")
    out = tmp_path / "other-classes"
    made = ("--model", f"local-dir:{model}", "--threads", 1)
    assert call("extract", images, "--out", out, *made)[0] == 0
    return out


def test_a_cache_is_reused_and_grows_by_what_is_new(
    call: Call, images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    model = ("--model", f"local-dir:{tiny_clip}", "--threads", 1)
    out = tmp_path / "cache"
    assert call("extract", images, "--out", out, *model, "--limit", 5)[0] == 0
    status, text, _ = call("extract", images, "--out", out, *model)
    assert status == 0
    assert "88 rows, 88 images; encoded 83 images" in text
    assert "nothing to encode" in call("extract", images, "--out", out, *model, "--rehash")[1]
    changed = write_images(tmp_path / "changed" / "train", {"moth": 9}).parent
    status, _, err = call("extract", changed, "--out", out, *model)
    assert status == 4
    assert "--rehash" in err


def test_failed_rows_end_with_status_3(call: Call, tiny_clip: Path, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"a": 5})
    (root / "a" / "000.png").write_text("no image")
    model = ("--model", f"local-dir:{tiny_clip}", "--threads", 1)
    status, out, err = call("extract", root, "--out", tmp_path / "cache", *model)
    assert status == 3
    assert "5 rows" in out
    assert "a/000.png: not an image" in err
    assert "1 failed" in call("inspect", tmp_path / "cache")[1]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("inspct", "x"), 2, "did you mean 'inspect'?"),
        (("inspect", "no/such/place"), 1, "no/such/place"),
        (("inspect", "emoji_lt", "--classes", "none.txt"), 1, "none.txt"),
        (("zero-shot", "no-cache"), 1, "not a feature cache"),
        (("evaluate", "no-run"), 2, "no run here"),
        (("methods", "logit-ajustment"), 2, "logit-adjustment"),
        (("extract",), 2, "SOURCE"),
        (("extract", "emoji_lt", "--out", "x", "--precision", "int3"), 2, "precision"),
        (("extract", "emoji_lt", "--out", "x", "--model", "ViT-B-99"), 1, "ViT-B-"),
    ],
)
def test_mistakes_get_a_message_and_a_status(
    call: Call, arguments: tuple[str, ...], status: int, text: str
) -> None:
    found, out, err = call(*arguments)
    assert found == status
    assert text in err
    assert out == ""


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("loss.taw=1", "did you mean 'loss.tau'"),
        ("loss.tau", "write it as key=value"),
        ("loss.tau=much", "cannot be read"),
        ("head=kosine", "cosine"),
    ],
)
def test_mistaken_settings(
    call: Call, cache: Path, tmp_path: Path, setting: str, text: str
) -> None:
    status, _, err = call("fit-adapter", cache, "--out", tmp_path / "r", "-s", setting)
    assert status == 2
    assert text in err
    assert not (tmp_path / "r").exists()


def test_options_from_a_file(call: Call, cache: Path, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    config.write_text("split: val\n")
    assert "val split" in call("zero-shot", cache, "--config", config)[1]
    assert "test split" in call("zero-shot", cache, "--config", config, "--split", "test")[1]
    config.write_text("spilt: val\n")
    status, _, err = call("zero-shot", cache, "--config", config)
    assert status == 2
    assert "did you mean 'split'" in err


def test_an_interrupt_ends_with_130(
    call: Call, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltcache.zero_shot.zero_shot", interrupt)
    status, _, err = call("zero-shot", cache)
    assert status == 130
    assert "interrupted" in err


def test_a_reader_that_goes_away_is_no_error(cache: Path) -> None:
    command = f"{sys.executable} -m ltcache methods | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (("inspect", "IMAGES"), {"torch", "sklearn"}),
        (("inspect", "CACHE"), {"torch", "sklearn"}),
        (("methods",), {"open_clip", "timm", "torchvision", "torch._dynamo", "sklearn"}),
        (("methods", "ce"), {"open_clip", "timm", "torchvision", "torch._dynamo", "sklearn"}),
    ],
)
def test_commands_that_only_look_import_nothing_that_computes(
    arguments: tuple[str, ...], heavy: set[str], images: Path, cache: Path
) -> None:
    places = {"IMAGES": str(images), "CACHE": str(cache)}
    typed = [places.get(word, word) for word in arguments]
    code = (
        "import sys\n"
        "from ltcache.cli import main\n"
        f"try: main({typed!r})\n"
        "except SystemExit as end: status = end.code\n"
        f"print(sorted({heavy!r} & set(sys.modules)), status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("[] 0\n")
