"""What is new in a manifest, for a cache that exists: only new content is encoded.

A uri that the cache knows keeps its item, unless ``rehash`` asks to look at its bytes again. Other
images are read once to hash them; content that the cache holds already is taken from there, be it
under another name or from an extension that was given up. Relabelling, moving between splits and
deleting rows change the manifest alone. All of it is done in arrays: lists of a million names would
need gigabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import Cache, Plan, merged_errors, read_shard_record
from ltcache.errors import IdentityError, ImageError, UsageError
from ltcache.images import ImageStore, open_store
from ltcache.manifest import Manifest, Root, is_distinct, place_among, whole_texts
from ltcache.records import bytes_digest, canonical_json, one_line

_SAMPLE = 64  # images whose content is compared when a cache is reused
_CHUNK = 64  # images hashed in one task
_BLOCK = 4096


@one_line
@dataclass(frozen=True, eq=False)
class ManifestGrowth:
    """How a cache grows.

    Args:
        items: int64 (rows,), the item of each row of the new manifest; new items are numbered from
            ``first_item`` on.
        uris: of the new items, in order.
        images: digest of the new items' uris and contents; empty where there are none.
    """

    items: np.ndarray
    uris: pa.StringArray
    images: str


def plan_growth(
    cache: Cache,
    plans: Sequence[Plan],
    manifest: Manifest,
    *,
    retry_failed: bool,
    rehash: bool,
    workers: int,
) -> ManifestGrowth:
    """Compare a manifest with what a cache holds.

    Args:
        plans: whose committed shards count as known content.
        retry_failed: read and encode failed images again.
        rehash: read every image again, and encode those whose content has changed.
        workers: threads that read and hash.

    Raises:
        UsageError: the manifest has no image in common with the cache.
    """
    encoded = whole_texts(manifest.rows["uri"]).dictionary_encode()
    uris = encoded.dictionary  # distinct ones, in order of appearance
    old = cache.manifest.rows
    if len(uris) and not place_among(uris, old["uri"]).drop_null():
        raise UsageError(
            f"{cache.path} holds other images: none of those asked for is among them. Choose "
            "another --out"
        )
    if retry_failed:
        old = old.filter(pc.equal(old["status"], "ok"))
    item_of = _looked_up(uris, old["uri"], old["item"].to_numpy())  # -1: to be looked at
    look = np.ones(len(uris), bool) if rehash else item_of < 0
    wanted = uris.filter(pa.array(look))
    content = hash_images(manifest.root, wanted, workers)
    shas, items = contents(cache, plans)
    found = _looked_up(content, shas, items)
    new = found < 0
    order, first = _numbered(wanted.filter(pa.array(new)), content.filter(pa.array(new)))
    found[new] = plans[-1].end + order
    item_of[look] = found
    ordered = wanted.filter(pa.array(new)).take(pa.array(first))
    theirs = content.filter(pa.array(new)).take(pa.array(first))
    return ManifestGrowth(
        items=item_of[encoded.indices.to_numpy()],
        uris=ordered,
        images=_images_digest(ordered, theirs) if len(ordered) else "",
    )


def _looked_up(values: pa.Array, known: pa.Array, items: np.ndarray) -> np.ndarray:
    """Return the item of each value, int64, -1 where it is not known."""
    place = pc.fill_null(place_among(values, known), -1).to_numpy().astype(np.int64)
    result = np.full(len(values), -1, np.int64)
    result[place >= 0] = items[place[place >= 0]]
    return result


def _numbered(uris: pa.Array, content: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Number new images in order of appearance; equal content is one item.

    Returns:
        The number of each, and the position of the first one of each number.
    """
    unread = pc.equal(content, "")  # what cannot be read fails under a number of its own
    slash = pa.scalar("/", uris.type)
    key = pc.if_else(
        unread, pc.binary_join_element_wise(slash, uris, pa.scalar("", uris.type)), content
    )
    order = key.dictionary_encode().indices.to_numpy().astype(np.int64)
    return order, np.unique(order, return_index=True)[1]


def _images_digest(uris: pa.Array, content: pa.Array) -> str:
    """Return ``digest([[uri, content], ...])`` without the list."""
    sha = hashlib.sha256(b"[")
    for start in range(0, len(uris), _BLOCK):
        part = slice(start, start + _BLOCK)
        pairs = zip(uris[part].to_pylist(), content[part].to_pylist(), strict=True)
        text = ",".join(canonical_json(list(pair)) for pair in pairs)
        sha.update((("," if start else "") + text).encode())
    sha.update(b"]")
    return sha.hexdigest()


def check_sample(cache: Cache, manifest: Manifest) -> None:
    """Look at some images that cache and manifest share by name: are they still the same?

    Raises:
        IdentityError: some have other content under the same name.
    """
    if manifest.root is None or not manifest.root.exists():
        return  # a cache can be relabelled where the images are not at hand
    rows = cache.manifest.rows.filter(pc.equal(cache.manifest.rows["status"], "ok"))
    uris = whole_texts(manifest.rows["uri"]).unique()
    place = place_among(uris, rows["uri"]).drop_null()
    kept = rows.select(["uri", "sha256"]).take(place)
    kept = kept.filter(pc.not_equal(kept["sha256"], ""))
    kept = kept.take(pa.array(np.arange(0, len(kept), max(1, len(kept) // _SAMPLE))))
    sample = whole_texts(kept["uri"])
    shas = dict(zip(sample.to_pylist(), kept["sha256"].to_pylist(), strict=True))
    found = zip(sample.to_pylist(), hash_images(manifest.root, sample, 1).to_pylist(), strict=True)
    changed = {uri: (shas[uri][:16], sha[:16]) for uri, sha in found if sha and sha != shas[uri]}
    if changed:
        first = dict(list(changed.items())[:5])
        raise IdentityError(
            "content of the images",
            first,
            f"{len(changed)} of {len(sample)} images that were looked at have changed under their "
            "names: --rehash encodes what has changed, or choose another --out",
        )


def number_items(manifest: Manifest) -> tuple[np.ndarray, pa.StringArray]:
    """Return the item of each row, int64 (rows,), and each item's uri, in order of appearance."""
    if is_distinct(manifest.rows["uri"]):  # nothing is copied
        return manifest.rows["row_id"].to_numpy(), whole_texts(manifest.rows["uri"])
    encoded = whole_texts(manifest.rows["uri"]).dictionary_encode()
    items = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return items, encoded.dictionary


def contents(cache: Cache, plans: Sequence[Plan]) -> tuple[pa.Array, np.ndarray]:
    """Return content (SHA-256) and item, int64, of all that has features in every layer."""
    shas, items = [pa.array([], pa.string())], [np.zeros(0, np.int64)]
    folders = [layer.folder for layer in cache.layers]
    for shard in (shard for plan in plans for shard in plan.shards):
        records = {folder: read_shard_record(cache.path, folder, shard) for folder in folders}
        there = {folder: record for folder, record in records.items() if record is not None}
        if len(there) < len(folders):
            continue
        record = there[folders[0]]
        good = np.ones(record.count, bool)
        good[list(merged_errors(there))] = False
        shas.append(pa.array(record.content, pa.string()).filter(pa.array(good)))
        items.append(record.first + np.flatnonzero(good))
    return whole_texts(pa.chunked_array(shas)), np.concatenate(items)


def hash_images(root: Root | None, uris: pa.Array, workers: int) -> pa.Array:
    """Return the SHA-256 of each image, "" where it cannot be read; in the order given."""
    if not len(uris):
        return pa.array([], pa.string())
    store = open_store(root)
    starts = range(0, len(uris), _CHUNK)

    def hashed(start: int) -> pa.Array:
        part = uris[start : start + _CHUNK].to_pylist()
        return pa.array([_hash(store, uri) for uri in part], pa.string())

    with ThreadPoolExecutor(workers, "hash") as pool:
        return whole_texts(pa.chunked_array(list(pool.map(hashed, starts))))


def _hash(store: ImageStore, uri: str) -> str:
    try:
        return bytes_digest(store.read(uri))
    except ImageError:
        return ""
