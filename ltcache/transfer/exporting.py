"""``export_cache``: a cache as numpy and parquet files that need nothing of ltcache to be read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ltcache.cache import CENTER, Cache, open_cache
from ltcache.records import JsonObject, file_digest, require_vacant, whole_folder, write_json
from ltcache.transfer.exported import CLASSES, ENCODER, FORMAT, RECORD, ROWS

_BLOCK = 4096
_README = """# Features of {name}

{rows} rows, {classes} classes; written by `ltcache export`. Row k of every array is row k of
`{rows_file}`.

| file | what it holds |
|---|---|
{fields}
| `{rows_file}` | key, uri, label (-1 = unlabelled), split, status, error, columns of the list |
| `{classes_file}` | class names in label order (`classes.names`), templates, groups |
| `prompts-*.npz` | class texts: `mean` (C, D), unit rows; `sentences` (C, M, D) with `count` (C) |
| `{encoder_file}` | `projection` (P, D): embedding = pooled @ projection (+ `projection_bias`) |
| `{record}` | identity of the encoder, digests of these files |

A failed row is NaN: filter by `status == "ok"`.

```python
import numpy as np, pyarrow.parquet as pq

rows = pq.read_table("{rows_file}").to_pandas()
features = np.load("{first}.npy", mmap_mode="r")
train = ((rows.split == "train") & (rows.status == "ok")).to_numpy()
x, y = features[train].astype("float32"), rows.label[train].to_numpy()
```

Back into a cache, with the identity of its encoder: `ltcache import FOLDER --out CACHE`.
"""


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: the folder, its rows, and the size of each file in bytes."""

    path: Path
    rows: int
    files: dict[str, int]


def export_cache(cache: Cache | str | Path, out: str | Path) -> ExportReport:
    """Write features, rows and class texts of a cache as a folder of plain files.

    Features are ``FIELD.npy``, float16 (n, D), with several crops (n, v, D); float32 where a value
    needs it. Rows are in the order of the manifest; those that failed are NaN.

    Raises:
        UsageError: ``out`` is there already. CacheError: the cache cannot be read.
    """
    out = require_vacant(out)
    cache = open_cache(cache)
    warn_of_left_out(cache)
    with whole_folder(out, replace=False) as partial:
        for name in exported_fields(cache):
            _write_field(cache, name, partial / f"{name}.npy")
        rows = cache.manifest.rows
        pq.write_table(rows.drop_columns(["item"]), partial / ROWS)
        write_json(partial / CLASSES, cache.manifest.header())
        tensors = {"projection": cache.projection, "projection_bias": cache.projection_bias}
        np.savez(partial / ENCODER, **{n: a for n, a in tensors.items() if a is not None})  # type: ignore[arg-type]
        prompts = [_write_prompts(cache, name, partial) for name in cache.prompt_names]
        written = sorted(partial.iterdir())
        write_json(partial / RECORD, _record(cache, prompts, written))
        (partial / "README.md").write_text(_readme(cache), encoding="utf-8")
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    return ExportReport(out, rows.num_rows, sizes)


def exported_fields(cache: Cache) -> dict[str, int]:
    """Return field -> dimension of what an export holds: vectors.

    Patch tokens stay in the cache: they are of use with the rest of the encoder's tower alone.
    """
    return {name: shape[0] for name, shape in cache.field_shapes().items() if len(shape) == 1}


def warn_of_left_out(cache: Cache) -> None:
    """Say which views and fields an export leaves out."""
    if others := sorted(set(cache.views) - {"center"}):
        warnings.warn(
            f"{cache.path}: the view center alone is exported, not {', '.join(others)}",
            stacklevel=3,
        )
    left = sorted(cache.field_shapes().keys() - exported_fields(cache))
    if left:
        warnings.warn(
            f"{cache.path}: {', '.join(left)} are not exported: they need the rest of the "
            "encoder's tower, which stays in the cache",
            stacklevel=3,
        )


def _write_field(cache: Cache, name: str, path: Path) -> None:
    rows = np.arange(cache.manifest.rows.num_rows)
    crops, dtype = stored_form(cache, name)
    dim = cache.field_dims()[name]
    shape = (len(rows), dim) if crops == 1 else (len(rows), crops, dim)
    target = np.lib.format.open_memmap(path, "w+", dtype, shape)
    for chosen in _blocks(rows):
        values = cache.row_features(chosen, name)
        target[chosen[0] : chosen[-1] + 1] = values.reshape(len(chosen), *shape[1:])
    target.flush()


def stored_form(cache: Cache, name: str) -> tuple[int, type]:
    """Return the crops of a row, and float16 unless a value needs float32."""
    rows = np.arange(cache.manifest.rows.num_rows)
    crops = 1
    for chosen in _blocks(rows):
        values = cache.row_features(chosen, name)
        crops = values.shape[1]
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16).astype(np.float32)
        if not np.array_equal(rounded, values, equal_nan=True):
            return crops, np.float32
    return crops, np.float16


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _write_prompts(cache: Cache, name: str, folder: Path) -> JsonObject:
    prompts = cache.prompts(name)
    stem = f"prompts-{re.sub(r'[^A-Za-z0-9.-]', '_', name)}"
    while (folder / f"{stem}.npz").exists():
        stem += "_"
    arrays = {"sentences": prompts.sentences, "count": prompts.count, "mean": prompts.mean}
    np.savez(folder / f"{stem}.npz", **arrays)  # type: ignore[arg-type]
    texts = [list(sentences) for sentences in prompts.texts]
    file, identity = f"{stem}.npz", dict(prompts.identity)
    return {"name": name, "file": file, "texts": texts, "identity": identity}


def _record(cache: Cache, prompts: list[JsonObject], written: list[Path]) -> JsonObject:
    return {
        "format": FORMAT,
        "view": CENTER,
        "fields": exported_fields(cache),
        "encoder": _encoder(cache),
        "prompts": prompts,
        "files": {path.name: file_digest(path) for path in written},
    }


def _encoder(cache: Cache) -> JsonObject:
    return {
        "identity": cache.encoder,
        "numerics": cache.numerics,
        "provenance": cache.provenance,
        "logit_scale": cache.logit_scale,
        "logit_bias": cache.logit_bias,
    }


def provenance(cache: Cache) -> JsonObject:
    """Return where the features of a cache come from, a value for JSON."""
    prompts = {name: dict(cache.prompts(name).identity) for name in cache.prompt_names}
    return {
        "view": CENTER,
        "fields": exported_fields(cache),
        "encoder": _encoder(cache),
        "manifest": cache.manifest.identity(),
        "header": cache.manifest.header(),
        "prompts": prompts,
    }


def _readme(cache: Cache) -> str:
    dims = exported_fields(cache)
    meaning = {
        "embedding": "in the space of the class texts, not normalised",
        "pooled": "before the projection into that space",
    }
    fields = [f"| `{n}.npy` | features ({d}), {meaning.get(n, '')} |" for n, d in dims.items()]
    return _README.format(
        name=cache.manifest.name,
        rows=len(cache.manifest),
        classes=cache.manifest.num_classes,
        fields="\n".join(fields),
        first=next(iter(dims)),
        rows_file=ROWS,
        classes_file=CLASSES,
        encoder_file=ENCODER,
        record=RECORD,
    )
