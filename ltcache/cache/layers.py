"""Layers: the folders of shards that a cache is made of, one upon the other.

The first layer is the view ``center`` with the fields that the first plan names. Another view, or a
field that was not asked for at first, is a layer of its own that is added to what is there:

    views/center/          embedding, pooled       the first layer
    views/center+tokens/   tokens                  a field added to a view
    views/rrc-4/           embedding, pooled       a view added (``:`` is no letter of a file name)

Every layer has the same shards: the same numbers, item ranges and micro-batches. So the shards that
exist are never touched, an item's place is the same in each layer, and whatever holds for one layer
(write-once shards, records that commit them, any number of processes, resuming) holds for all. What
a layer is to hold stands in ``plans/layer-<layer>.json``, which is created exclusively like a plan,
so that two processes cannot add the same view with different seeds. A layer belongs to the cache
once the index names it; until then it is an addition that has not finished, and is no reader's.

An item that no row names any more when a layer is added cannot be encoded: nobody knows its file.
Its slot is NaN, with that as its reason, and its content no longer counts as known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltcache.cache.layout import CENTER, layer_path
from ltcache.cache.plan import FORMAT, Plan
from ltcache.cache.staging import create_file
from ltcache.errors import CacheError
from ltcache.records import JsonObject, canonical_json, require_equal

Shape = int | Sequence[int]
"""Of one crop's features: D, or (T, P) of a field that has several vectors."""

NO_ROW = "no row named this image when the view or field was added"
"""Why an item has no features in a layer although its image was fine."""


@dataclass(frozen=True)
class Layer:
    """One folder of shards.

    Args:
        folder: its name below ``views/``.
        view: identity of the view; ``name`` and, if not 1, ``crops`` are among it.
        fields: field -> shape of one crop's features.
    """

    folder: str
    view: Mapping[str, Any]
    fields: Mapping[str, Shape]

    @property
    def name(self) -> str:
        """Name of the view."""
        return str(self.view["name"])

    @property
    def crops(self) -> int:
        """Crops of each image."""
        return int(self.view.get("crops", 1))

    @property
    def shapes(self) -> dict[str, int | list[int]]:
        """The fields' shapes as the index has them."""
        return {name: as_json(shape) for name, shape in self.fields.items()}

    def to_dict(self) -> JsonObject:
        """Return the JSON form."""
        return {"folder": self.folder, "view": dict(self.view), "fields": self.shapes}


def as_json(shape: Shape) -> int | list[int]:
    """Return a shape as the index has it: D, or [T, P]."""
    dims = dims_of(shape)
    return dims[0] if len(dims) == 1 else list(dims)


def dims_of(shape: Shape) -> tuple[int, ...]:
    """Return a shape as a tuple."""
    return (shape,) if isinstance(shape, int) else tuple(shape)


def folder_of(view: str, field: str | None = None) -> str:
    """Return the folder of a view, or of a field that is added to it."""
    name = view.replace(":", "-")
    return name if field is None else f"{name}+{field}"


def first_layer(plan: Plan) -> Layer:
    """Return the layer that a cache's first plan makes."""
    return Layer(CENTER, {"name": CENTER}, dict(plan.fields))


def claim_layer(cache: Path, layer: Layer) -> bool:
    """Begin a layer, or join it where it was begun already.

    Returns:
        Whether this call began it.

    Raises:
        IdentityError: it was begun with another view or other fields; names every difference.
    """
    path = layer_path(cache, layer.folder)
    value = {"format": FORMAT, **layer.to_dict()}
    if create_file(cache, path, canonical_json(value).encode()):
        return True
    require_equal(
        "view",
        read_layer(cache, layer.folder).to_dict(),
        layer.to_dict(),
        remedy=f"{cache} was begun with the expected values: continue with these, choose another "
        f"--out, or remove {path} and views/{layer.folder}",
    )
    return False


def read_layer(cache: Path, folder: str) -> Layer:
    """Return what a layer that was added is to hold.

    Raises:
        CacheError: the file is missing or is not what :func:`claim_layer` writes.
    """
    path = layer_path(cache, folder)
    try:
        value = json.loads(path.read_text())
        if value.pop("format") != FORMAT or value["folder"] != folder:
            raise ValueError(f"not of format {FORMAT} and folder {folder}")
        return Layer(**value)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: not a layer ({error}); see ltcache verify") from None


def begun_layers(cache: Path, plan: Plan) -> list[Layer]:
    """Return the first layer and every one that was begun since, finished or not."""
    names = sorted(path.name for path in (cache / "plans").glob("layer-*.json"))
    added = [name.removeprefix("layer-").removesuffix(".json") for name in names]
    return [first_layer(plan), *(read_layer(cache, folder) for folder in added)]


def index_views(layers: Sequence[Layer], shards: Sequence[Sequence[int]]) -> JsonObject:
    """Return the index' entry of the views: identity, fields, layers and the shards of all."""
    views: JsonObject = {}
    for name in dict.fromkeys(layer.name for layer in layers):
        own = [layer for layer in layers if layer.name == name]
        folders = {layer.folder: layer.shapes for layer in own}
        fields = {field: shape for shapes in folders.values() for field, shape in shapes.items()}
        identity = dict(own[0].view)
        entry = {"identity": identity, "fields": fields, "layers": folders}
        views[name] = {**entry, "shards": list(shards)}
    return views


def layers_of(index: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a finished cache; the first one made stands first."""
    found = [
        Layer(folder, view_identity(name, entry), fields)
        for name, entry in index["views"].items()
        for folder, fields in entry.get("layers", {name: entry["fields"]}).items()
    ]
    return sorted(found, key=lambda layer: layer.folder != CENTER)


def view_identity(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the identity of a view of an index; indices of the first release named it alone."""
    return dict(entry.get("identity", {"name": name}))
