"""What is new in a manifest, for a cache that exists: only new content is encoded.

A uri that the cache knows keeps its item, unless ``rehash`` asks to look at its bytes again. Other
images are read once to hash them; content that the cache holds already is taken from there, be it
under another name or from an extension that was given up. Relabelling, moving between splits and
deleting rows change the manifest alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import Cache, Plan, read_record
from ltcache.cache.fingerprint import bytes_digest, digest
from ltcache.cache.layout import CENTER
from ltcache.errors import IdentityError, ImageError, UsageError
from ltcache.images import ImageStore, open_store
from ltcache.manifest import Manifest, Root

_SAMPLE = 64  # images whose content is compared when a cache is reused
_CHUNK = 64  # images hashed in one task


@dataclass(frozen=True, eq=False)
class Growth:
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
) -> Growth:
    """Compare a manifest with what a cache holds.

    Args:
        plans: whose committed shards count as known content.
        retry_failed: read and encode failed images again.
        rehash: read every image again, and encode those whose content has changed.
        workers: threads that read and hash.

    Raises:
        UsageError: the manifest has no image in common with the cache.
    """
    encoded = manifest.rows["uri"].combine_chunks().dictionary_encode()
    uris: list[str] = encoded.dictionary.to_pylist()
    kept = _kept_items(cache, retry_failed)
    if not set(uris) & set(cache.manifest.rows["uri"].to_pylist()):
        raise UsageError(
            f"{cache.path} holds other images: none of those asked for is among them. Choose "
            "another --out"
        )
    look = [uri for uri in uris if rehash or uri not in kept]
    content = dict(zip(look, hash_images(manifest.root, look, workers), strict=True))
    item_of = _place(uris, kept, content, contents(cache.path, plans), plans[-1].end)
    new = [uri for uri in look if item_of[uri] >= plans[-1].end]
    first_of_item = {item_of[uri]: uri for uri in reversed(new)}
    ordered = [first_of_item[item] for item in sorted(first_of_item)]
    return Growth(
        items=np.array([item_of[uri] for uri in uris], np.int64)[encoded.indices.to_numpy()],
        uris=pa.array(ordered, pa.string()),
        images=digest([[uri, content[uri]] for uri in ordered]) if ordered else "",
    )


def check_sample(cache: Cache, manifest: Manifest) -> None:
    """Look at some images that cache and manifest share by name: are they still the same?

    Raises:
        IdentityError: some have other content under the same name.
    """
    if manifest.root is None or not manifest.root.exists():
        return  # a cache can be relabelled where the images are not at hand
    rows = cache.manifest.rows.filter(pc.equal(cache.manifest.rows["status"], "ok"))
    shas = dict(zip(rows["uri"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
    shared = [uri for uri in dict.fromkeys(manifest.rows["uri"].to_pylist()) if shas.get(uri)]
    sample = shared[:: max(1, len(shared) // _SAMPLE)]
    found = zip(sample, hash_images(manifest.root, sample, 1), strict=True)
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
    encoded = manifest.rows.column("uri").combine_chunks().dictionary_encode()
    items = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return items, encoded.dictionary


def contents(cache: Path, plans: Sequence[Plan]) -> dict[str, int]:
    """Return content (SHA-256) -> item for every item that was encoded well."""
    known: dict[str, int] = {}
    for plan in plans:
        for shard in plan.shards:
            if record := read_record(cache, CENTER, shard):
                for position, content in enumerate(record.content):
                    if position not in record.errors:
                        known.setdefault(content, record.first + position)
    return known


def hash_images(root: Root | None, uris: Sequence[str], workers: int) -> list[str]:
    """Return the SHA-256 of each image, "" where it cannot be read; in the order given."""
    if not uris:
        return []
    store = open_store(root)
    chunks = [uris[start : start + _CHUNK] for start in range(0, len(uris), _CHUNK)]
    with ThreadPoolExecutor(workers, "hash") as pool:
        parts = pool.map(lambda chunk: [_hash(store, uri) for uri in chunk], chunks)
        return [content for part in parts for content in part]


def _hash(store: ImageStore, uri: str) -> str:
    try:
        return bytes_digest(store.read(uri))
    except ImageError:
        return ""


def _kept_items(cache: Cache, retry_failed: bool) -> dict[str, int]:
    """Return uri -> item of the cache's rows."""
    rows = cache.manifest.rows
    columns = (rows[name].to_pylist() for name in ("uri", "item", "status"))
    return {
        uri: item
        for uri, item, status in zip(*columns, strict=True)
        if status == "ok" or not retry_failed
    }


def _place(
    uris: Sequence[str],
    kept: dict[str, int],
    content: dict[str, str],
    known: dict[str, int],
    first_item: int,
) -> dict[str, int]:
    """Return uri -> item: kept, known by content, or new; equal new content is one item."""
    known = dict(known)
    result: dict[str, int] = {}
    following = first_item
    for uri in uris:
        sha = content.get(uri)
        if sha is None:
            result[uri] = kept[uri]
            continue
        if not sha or sha not in known:  # what cannot be read fails under a number of its own
            known[sha] = following
            following += 1
        result[uri] = known[sha]
    return result
