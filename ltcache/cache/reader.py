"""Reading a finished cache: labels, features and class texts as arrays, and every identity."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ltcache.cache.index import named_in, read_index
from ltcache.cache.intact import require_intact
from ltcache.cache.layers import Layer, dims_of, layers_of, view_identity
from ltcache.cache.layout import shard_path
from ltcache.cache.mirror import local_folder
from ltcache.cache.prompt_set import PromptEmbeddings, read_prompts
from ltcache.cache.row_files import column_names, count_rows, read_blocks, read_rows, row_files
from ltcache.cache.shards import map_array
from ltcache.cache.shared_images import SharedContent, compared_splits, shared_content
from ltcache.errors import CacheError, ManifestError
from ltcache.manifest import (
    COLUMNS,
    IDENTIFYING,
    SPLITTING,
    ClassList,
    Manifest,
    in_order,
    missing_split,
    rows_digest,
)
from ltcache.records import JsonObject, html_table, require_equal

_BLOCK = 1 << 17  # rows in memory at a time
_ENCODER = {"identity", "numerics", "provenance", "logit_scale", "logit_bias"}


class Cache:
    """A finished feature cache; open one with :func:`open_cache`.

    Attributes:
        path: its directory.
        manifest: the rows, with the columns that extraction added (item, status, sha256...).
        encoder: identity of the encoder that made the features.
        numerics: what last bits depend on (precision, decoder, device kind, versions).
        provenance: how the encoder was named when it was loaded.
        logit_scale: exponentiated, or None; logit_bias: or None.
        projection: float32 (P, D) or None; projection_bias: float32 (D,) or None.
        warned_of: texts that were warned of and are not to be repeated.
        changed_rows: digest of rows in place of those on disk (:meth:`with_rows`); None: of none.
    """

    changed_rows: str | None = None

    def __init__(self, path: Path, index: Mapping[str, Any]) -> None:
        self.path = path
        self._index = index
        self.warned_of: set[str] = set()
        self._read: dict[str, pa.ChunkedArray] = {}
        self._codes: dict[str, tuple[np.ndarray, list[str]]] = {}
        record = _read_json(self._intact("encoder.json"))
        if missing := sorted(_ENCODER - set(record)):
            raise CacheError(f"{path / 'encoder.json'}: lacks {', '.join(missing)}: damaged")
        self.encoder: Mapping[str, Any] = record["identity"]
        self.numerics: Mapping[str, Any] = record["numerics"]
        self.provenance: Mapping[str, str | None] = record["provenance"]
        self.logit_scale: float | None = record["logit_scale"]
        self.logit_bias: float | None = record["logit_bias"]
        tensors = _read_tensors(self._intact("encoder.safetensors"))
        self.projection: np.ndarray | None = tensors.get("projection")
        self.projection_bias: np.ndarray | None = tensors.get("projection_bias")

    def __repr__(self) -> str:
        """Return where the cache lies and what it is of, on one line."""
        architecture = self.encoder.get("architecture", {}).get("name", "unknown encoder")
        return f"Cache({str(self.path)!r}, {architecture}, {self.manifest!r})"

    def _repr_html_(self) -> str:
        """Return the images of each split and what there is of them, as a table for notebooks."""
        rows: list[list[object]] = [["classes", len(self.classes)]]
        rows += [[split, len(self.rows(split))] for split in self.splits]
        rows += [["views", ", ".join(self.views)], ["prompts", ", ".join(self.prompt_names)]]
        return html_table(repr(self), ["what", "how many, or which"], rows)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest that was extracted, with the columns of extraction."""
        rows, header = self.table(), self._header
        if self.divided:
            card = {**header.get("card", {}), SPLITTING: self._index[SPLITTING]}
            header = {**header, "card": card}
        with self._damaged():
            manifest = Manifest.from_header(header, rows)
        self._read.clear()
        return manifest

    def with_rows(self, rows: pa.Table) -> Cache:
        """Return the cache with other values in its list, such as splits, of the same images."""
        found = copy.copy(self)
        for name in ("shared_content", "_column_names", "_split_names"):  # are of the list before
            found.__dict__.pop(name, None)
        found._read, found._codes = {}, {}
        found.manifest = replace(self.manifest, rows=rows)
        found.changed_rows = rows_digest([rows.select(["key", "label", "split"])])
        return found

    def table(self, *names: str) -> pa.Table:
        """Return columns of the manifest's rows (all by default); the file's others are not read.

        Raises:
            CacheError: it has no such column, or is damaged.
        """
        if "manifest" in self.__dict__:
            rows = self.manifest.rows
            return rows.select(names) if names else rows
        return read_rows(self._row_paths, names)

    def extracted_table(self, *names: str) -> pa.Table:
        """Return columns of the rows as they were extracted, whatever :meth:`with_rows` changed.

        Raises:
            CacheError: as :meth:`table` does.
        """
        return (
            self.table(*names) if self.changed_rows is None else read_rows(self._row_paths, names)
        )

    def row_blocks(self, *names: str) -> Iterator[pa.Table]:
        """Yield columns of the manifest's rows, a bounded number of rows at a time.

        Raises:
            CacheError: as :meth:`table` does.
        """
        if "manifest" in self.__dict__:
            rows = self.manifest.rows.select(names)
            yield from (rows.slice(start, _BLOCK) for start in range(0, rows.num_rows, _BLOCK))
            return
        yield from read_blocks(self._row_paths, names)

    def list_identity(self) -> JsonObject:
        """Return ``manifest.identity()`` without holding the rows.

        Raises:
            CacheError: the list is damaged.
        """
        if "manifest" in self.__dict__:
            return self.manifest.identity()
        with self._damaged():
            empty = Manifest.from_header(self._header, COLUMNS.empty_table())
        count = count_rows(self._row_paths)
        rows = rows_digest(self.row_blocks(*IDENTIFYING))
        return {**empty.identity(), "num_rows": count, "rows": rows}

    def rest(self) -> dict[str, np.ndarray]:
        """Return the tensors of the image tower behind the tokens.

        ``ltcache.encoder.build_rest(cache.encoder, cache.rest())`` makes a module of them.

        Raises:
            CacheError: the cache has no tokens, or the file is damaged.
        """
        if named_in(self.files, "rest.safetensors") is None:
            raise CacheError(
                f"{self.path}: no tokens, so the rest of the tower is not kept; add them with "
                "ltcache extract --fields tokens"
            )
        return _read_tensors(self._intact("rest.safetensors"))

    @property
    def divided(self) -> bool:
        """Whether its splits were made here; ``manifest.card`` then says how."""
        return SPLITTING in self._index

    @property
    def image_only(self) -> bool:
        """Whether the encoder has no text tower, so that there can be no class texts."""
        return "text" not in self.encoder.get("towers", {"text": None})

    @property
    def imported(self) -> bool:
        """Whether the features came from elsewhere (``ltcache import``), without their images."""
        return self.provenance.get("imported") is not None

    @property
    def classes(self) -> ClassList:
        """The class list, in label order."""
        with self._damaged():
            return Manifest.from_header(self._header, COLUMNS.empty_table()).classes

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return in_order(self._split_names)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that are there."""
        return tuple(self._index["views"])

    @property
    def layers(self) -> list[Layer]:
        """The folders of shards that hold views and fields."""
        return layers_of(self._index)

    @property
    def prompt_names(self) -> tuple[str, ...]:
        """Names of the sets of class texts."""
        return tuple(self._index["prompts"])

    @property
    def files(self) -> dict[str, Mapping[str, Any]]:
        """Every file of the cache beside the index: relative path -> sha256 and bytes."""
        return dict(self._index["files"])

    @cached_property
    def shared_content(self) -> tuple[SharedContent, ...]:
        """Images that stand in two splits, byte for byte; none where no digest is known."""
        compared = compared_splits(self.splits)
        if len(compared) < 2:
            return ()
        return shared_content(self.table("key", "split", "sha256", "status"), compared)

    def field_dims(self, view: str = "center") -> dict[str, int]:
        """Return field -> dimension of its vectors for a view."""
        return {name: shape[-1] for name, shape in self.field_shapes(view).items()}

    def field_shapes(self, view: str = "center") -> dict[str, tuple[int, ...]]:
        """Return field -> shape of one crop's features: (D,), or (T, P) for ``tokens``."""
        return {name: dims_of(shape) for name, shape in self._view(view)["fields"].items()}

    def crops(self, view: str = "center") -> int:
        """Return how many crops of each image a view has."""
        return int(view_identity(view, self._view(view)).get("crops", 1))

    def shards(self, view: str = "center") -> list[int]:
        """Return the numbers of a view's shards, in order of their items."""
        return [number for number, _, _ in self._view(view)["shards"]]

    def rows(self, split: str | None = None) -> np.ndarray:
        """Return int64 row numbers of a split (all by default) whose features exist.

        Raises:
            CacheError: there is no such split.
        """
        keep = self._is("status", "ok")
        if split is not None:
            of_split = self._is("split", split)
            if not of_split.any():
                raise CacheError(f"{self.path}: {missing_split(split, self.splits)}")
            keep = keep & of_split
        return np.flatnonzero(keep)

    def labels(self, split: str | None = None) -> np.ndarray:
        """Return int64 labels of :meth:`rows`; -1 = unlabelled."""
        return self._values("label").astype(np.int64)[self.rows(split)]

    def class_counts(self, split: str = "train") -> np.ndarray:
        """Return int64 (C,): rows of each class in a split, counted over :meth:`rows`."""
        labels = self.labels(split)
        return np.bincount(labels[labels >= 0], minlength=len(self.classes)).astype(np.int64)

    def column(self, name: str, split: str | None = None) -> np.ndarray | None:
        """Return a column of the manifest for :meth:`rows`, or None where it has no such one."""
        if name not in self._column_names:
            return None
        return self._values(name)[self.rows(split)]

    def features(
        self,
        split: str | None = None,
        field: str = "embedding",
        view: str = "center",
    ) -> np.ndarray:
        """Return float32 (n, v, D): features of :meth:`rows`, v crops each, not normalised.

        ``tokens`` are (n, v, T, P).

        Raises:
            CacheError: no such view, field or split, or a damaged shard.
        """
        return self.row_features(self.rows(split), field, view)

    def shard_places(self, rows: np.ndarray, view: str = "center") -> np.ndarray:
        """Return int64 (n,): where the shard of each of ``rows`` stands in :meth:`shards`."""
        items = self._values("item").astype(np.int64)[rows]
        return _owners(self._view(view)["shards"], items)[1]

    def row_features(
        self, rows: np.ndarray, field: str = "embedding", view: str = "center"
    ) -> np.ndarray:
        """Return float32 (n, v, D): features of int64 ``rows``; NaN where a row has none.

        Raises:
            CacheError: no such view or field, or a damaged shard.
        """
        layer = self._layer(view, field)
        items = self._values("item").astype(np.int64)[rows]
        found = self._gather(layer.folder, field, items, self._view(view)["shards"])
        if found is None:
            return np.zeros((0, layer.crops, *dims_of(layer.fields[field])), np.float32)
        return found

    def feature_blocks(
        self, rows: np.ndarray, size: int, field: str = "embedding", view: str = "center"
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield int64 ``rows`` and their features (n, v, D), at most ``size`` rows at a time.

        Features are as stored, float16 or float32, and read-only where they lie together in one
        shard: a view of the file, so that memory is bounded by one block. Other rows are copied.

        Raises:
            CacheError: no such view or field, or a damaged shard.
        """
        folder, shards = self._layer(view, field).folder, self._view(view)["shards"]
        items = self._values("item").astype(np.int64)
        mapped: dict[int, np.ndarray] = {}
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            yield block, self._block(folder, field, items[block], shards, mapped)

    def prompts(self, name: str | None = None) -> PromptEmbeddings:
        """Return a set of class texts, ``default`` unless named.

        Raises:
            CacheError: there is no such set.
        """
        name = name or "default"
        if name not in self._index["prompts"]:
            raise CacheError(
                f"{self.path}: no prompts {name!r} (there are: "
                f"{', '.join(self.prompt_names) or 'none'}); {self._texts_from()}"
            )
        pair = self._index["prompts"][name]
        for file in pair:
            self._intact(file)
        return read_prompts(self.path, name, *pair)

    def identities(
        self, view: str = "center", prompts: PromptEmbeddings | None = None
    ) -> dict[str, Mapping[str, Any]]:
        """Return kind -> identity of everything that a consumer of this cache depends on."""
        result: dict[str, Mapping[str, Any]] = {
            "encoder": self.encoder,
            "classes": self.classes.identity(),
            "view": view_identity(view, self._view(view)),
            "numerics": self.numerics,
        }
        if prompts is not None:
            result["prompts"] = dict(prompts.identity)
        return result

    def _intact(self, name: str) -> Path:
        """Return the path of a file whose content is what the index says."""
        return require_intact(self.path, named_in(self.files, name) or name, self._index)

    def _mapped(self, layer: str, shard: int, field: str) -> np.ndarray:
        """Return a read-only memory map of a field of a shard."""
        name = shard_path(Path(), layer, shard).as_posix()
        return map_array(self._intact(name), field)

    def _gather(
        self,
        layer: str,
        field: str,
        items: np.ndarray,
        shards: Sequence[Sequence[int]],
        *,
        as_stored: bool = False,
    ) -> np.ndarray | None:
        """Collect items of all shards, which need not be sorted nor distinct; None of no items.

        Args:
            as_stored: float16 where all shards are, else float32 in any case.
        """
        result: np.ndarray | None = None
        first, owner = _owners(shards, items)
        for position in np.unique(owner).tolist():
            mapped = self._mapped(layer, shards[position][0], field)
            where = np.flatnonzero(owner == position)
            if result is None:
                kind = mapped.dtype if as_stored else np.float32
                result = np.empty((len(items), *mapped.shape[1:]), kind)
            result = result.astype(np.promote_types(result.dtype, mapped.dtype), copy=False)
            try:
                result[where] = _taken(mapped, items[where] - first[position])
            except (IndexError, ValueError):
                raise self._lacks_items(position, layer) from None
        return result

    def _lacks_items(self, position: int, layer: str) -> CacheError:
        return CacheError(
            f"{self.path}: shard {position} of {layer!r} does not hold the items that the "
            "manifest names: damaged, see ltcache verify"
        )

    def _block(
        self,
        layer: str,
        field: str,
        items: np.ndarray,
        shards: Sequence[Sequence[int]],
        mapped: dict[int, np.ndarray],
    ) -> np.ndarray:
        """Return items as they are stored; a view of the file where they lie together in one shard.

        Args:
            mapped: the shard that the block before came from; holds at most one.
        """
        first, owner = _owners(shards, items)
        position = int(owner[0])
        if (owner == position).all():
            if position not in mapped:
                mapped.clear()
                mapped[position] = self._mapped(layer, shards[position][0], field)
            try:
                return _taken(mapped[position], items - first[position])
            except IndexError:
                raise self._lacks_items(position, layer) from None
        found = self._gather(layer, field, items, shards, as_stored=True)
        assert found is not None
        return found

    def how_to_add(self, view: str) -> str:
        """Return how the cache gets a view that it lacks, in words."""
        if self.imported:
            return (
                "its features were imported, and views are made of images: extract these into "
                "another cache (ltcache extract)"
            )
        return f"add it with ltcache extract SOURCE --out {self.path} --views {view}"

    def _texts_from(self) -> str:
        if self.image_only:
            return (
                f"its encoder ({self.encoder['architecture']['name']}) has no text tower: extract "
                "another cache with a dual encoder, such as --model ViT-B-16 --pretrained openai; "
                "ltcache ensemble mixes its zero-shot with runs of this one"
            )
        return "add them with ltcache prompts"

    def _view(self, view: str) -> Mapping[str, Any]:
        if view not in self._index["views"]:
            raise CacheError(
                f"{self.path}: no view {view!r}, only {', '.join(self.views)}; "
                f"{self.how_to_add(view)}, or name another view"
            )
        entry: Mapping[str, Any] = self._index["views"][view]
        return entry

    def _layer(self, view: str, field: str) -> Layer:
        self._view(view)
        for layer in self.layers:
            if layer.name == view and field in layer.fields:
                return layer
        raise CacheError(
            f"{self.path}: no field {field!r} in view {view!r}, only "
            f"{', '.join(self.field_shapes(view))}"
        )

    def _is(self, name: str, text: str) -> np.ndarray:
        """Return which rows have ``text`` in a column, without a Python value for each of them."""
        codes, texts = self._coded(name)
        return codes == (texts.index(text) if text in texts else len(texts))

    def _coded(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Return the few texts of a column, as they appear, and int32 (n,): which one a row has."""
        if name not in self._codes:
            if "manifest" in self.__dict__:
                column = self.manifest.rows[name].dictionary_encode()
            else:
                column = read_rows(self._row_paths, [name], [name])[name]
            whole = column.unify_dictionaries().combine_chunks()
            codes = pc.fill_null(whole.indices, -1).to_numpy()
            self._codes[name] = codes, whole.dictionary.to_pylist()
        return self._codes[name]

    @cached_property
    def _split_names(self) -> list[str]:
        """The splits as they appear."""
        if "split" in self._codes:
            return self._codes["split"][1]
        texts = (block["split"].unique().to_pylist() for block in self.row_blocks("split"))
        return list(dict.fromkeys(text for part in texts for text in part))

    @property
    def _row_paths(self) -> list[Path]:
        return [self._intact(name) for name in row_files(self._index)]

    def _values(self, name: str) -> np.ndarray:
        return self._column(name).to_numpy(zero_copy_only=False)

    def _column(self, name: str) -> pa.ChunkedArray:
        """Return a column of the manifest's rows; one that was read alone is kept."""
        if "manifest" in self.__dict__:
            return self.manifest.rows[name]
        if name not in self._read:
            self._read[name] = self.table(name)[name]
        return self._read[name]

    @cached_property
    def _column_names(self) -> list[str]:
        if "manifest" in self.__dict__:
            known: list[str] = self.manifest.rows.column_names
            return known
        return column_names(self._row_paths[0])

    @cached_property
    def _header(self) -> Mapping[str, Any]:
        return _read_json(self._intact("classes.json"))

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        try:
            yield
        except ManifestError as error:
            raise CacheError(f"{self.path}: damaged ({error}); see ltcache verify") from None


def open_cache(path: Cache | str | Path) -> Cache:
    """Open a finished cache; one that is open already is returned as it is.

    Args:
        path: its folder, or an address such as ``s3://bucket/cache`` or ``https://host/cache``,
            whose files are fetched when they are asked for (:mod:`ltcache.cache.mirror`).

    Raises:
        CacheError: it does not exist, is not finished, or a file of it is missing or cut short.

    Example:
        >>> cache = open_cache("cache")
        >>> cache.classes.names, cache.class_counts("train").tolist()
        (('cat', 'newt'), [12, 4])
        >>> cache.features("train", field="pooled").shape  # (rows, crops, dimensions)
        (16, 1, 1280)
    """
    if not isinstance(path, (str, Path)):
        return path
    path = local_folder(path)
    return Cache(path, read_index(path))


def check_identities(
    expected: Mapping[str, Any], found: Mapping[str, Any], allow_stale: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Compare what a run was made with to what a cache is made of, kind by kind.

    Args:
        expected: of the run; only the kinds it names are compared.
        found: of the cache (:meth:`Cache.identities`).
        allow_stale: kinds or dotted fields that may differ.

    Returns:
        Fields let pass by ``allow_stale``, and fields of ``numerics`` that differ (a warning).

    Raises:
        IdentityError: a kind other than ``numerics`` differs.
    """
    stale: list[str] = []
    for kind in sorted(set(expected) - {"numerics"}):
        stale += require_equal(
            kind,
            expected[kind],
            found.get(kind),
            allow_stale=allow_stale,
            remedy="these features do not fit the run: use the cache it was made with, fit again, "
            f"or pass --allow-stale {kind}",
        )
    warnings = require_equal(
        "numerics", expected.get("numerics"), found.get("numerics"), allow_stale=["numerics"]
    )
    return stale, warnings


def _owners(shards: Sequence[Sequence[int]], items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first item of each shard, and the place of the shard of each of ``items``."""
    first = np.array([start for _, start, _ in shards])
    return first, np.searchsorted(first, items, side="right") - 1


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise CacheError(f"{path}: not a JSON object: damaged")
    return value


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        tensors: dict[str, np.ndarray] = load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CacheError(f"{path}: cannot be read ({error})") from None
    return tensors


def _taken(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return rows at some places: a view where they lie together, else a copy.

    Raises:
        IndexError: a place that is not there.
    """
    start, stop = int(places[0]), int(places[0]) + len(places)
    together = start >= 0 and stop <= len(rows) and (np.diff(places) == 1).all()
    return np.asarray(rows[start:stop] if together else rows[places])
