"""``export_dataset``: a cache as a dataset that Hugging Face's ``datasets`` loads from disk."""

from __future__ import annotations

import importlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.cache import Cache, open_cache
from ltcache.errors import UsageError
from ltcache.extras import how_to_install
from ltcache.manifest import ClassList
from ltcache.records import require_vacant, whole_folder, write_json
from ltcache.transfer.exporting import (
    ExportReport,
    exported_fields,
    provenance,
    stored_form,
    warn_of_left_out,
)

CARD, PROVENANCE = "README.md", "ltcache.json"
_BLOCK = 4096
_ARROW = "arrow"  # the files as they are written, before datasets lays them out
_DROPPED = ("row_id", "item")

_CARD = """# Features of {name}

{rows} rows in {splits}, {classes} classes; written by `ltcache export --format hf`.

```python
from datasets import load_from_disk

data = load_from_disk("FOLDER").with_format("numpy")
train = data[{first!r}].filter(lambda status: status == "ok", input_columns="status")[:]
x, y = train[{field!r}], train["label"]
```

| column | what it holds |
|---|---|
{fields}
| `label` | a ClassLabel in label order; -1 = unlabelled |
| `key`, `uri`, `split` | name and place of the image; where it belongs |
| `status`, `error` | `ok`, or why there are no features: those of a failed row are NaN |

## Provenance

- encoder: {encoder}
- image tower (SHA-256): {tower}
- computed in {precision} on {device}
- rows (SHA-256): {digest}

`{provenance}` holds the identities of encoder, numerics, classes and class texts.
{renamed}"""


def export_dataset(cache: Cache | str | Path, out: str | Path) -> ExportReport:
    """Write features and rows of a cache as ``datasets.load_from_disk`` reads them.

    One dataset for each split, all rows in the order of the manifest; features are float16 (D,),
    with several crops (v, D), float32 where a value needs it. Memory is bounded by a block of rows.

    Raises:
        UsageError: ``out`` is there already, or ``datasets`` is not installed.
        CacheError: the cache cannot be read.
    """
    out = require_vacant(out)
    library = _library()
    cache = open_cache(cache)
    warn_of_left_out(cache)
    with whole_folder(out, replace=False) as partial:
        forms = {name: stored_form(cache, name) for name in exported_fields(cache)}
        features = _features(library, cache, forms)
        parts = library.DatasetDict()
        for split in cache.splits:
            file = partial / _ARROW / f"{len(parts)}.arrow"
            _write_split(library, cache, split, features, forms, file)
            parts[split] = library.Dataset.from_file(str(file))
        with _without_bars(library):
            parts.save_to_disk(str(partial))
        del parts
        shutil.rmtree(partial / _ARROW)
        write_json(partial / PROVENANCE, provenance(cache))
        (partial / CARD).write_text(_card(cache), encoding="utf-8")
        found = [path for path in sorted(partial.rglob("*")) if path.is_file()]
        sizes = {path.relative_to(partial).as_posix(): path.stat().st_size for path in found}
    return ExportReport(out, len(cache.manifest), sizes)


def unique_names(classes: ClassList) -> list[str]:
    """Return the class names, a repeated one with its source id or label: a ClassLabel has each
    name once (ImageNet has two ``missile``s)."""
    count = Counter(classes.names)
    names = [
        f"{name} ({source or label})" if count[name] > 1 else name
        for label, (name, source) in enumerate(zip(classes.names, classes.source_ids, strict=True))
    ]
    if len(set(names)) < len(names):
        names = [f"{name} [{label}]" for label, name in enumerate(classes.names)]
    return names


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise UsageError(
            f"a Hugging Face dataset needs 'datasets': {how_to_install('hf')}"
        ) from None


def _features(library: Any, cache: Cache, forms: dict[str, tuple[int, type]]) -> Any:
    """Return the types of all columns, as ``datasets`` states them."""
    schema = cache.manifest.rows.drop_columns(list(_DROPPED)).schema.remove_metadata()
    features = library.Features.from_arrow_schema(schema)
    features["label"] = library.ClassLabel(names=unique_names(cache.classes))
    for name, (crops, dtype) in forms.items():
        kind = library.Sequence(
            library.Value(np.dtype(dtype).name), length=cache.field_dims()[name]
        )
        features[name] = kind if crops == 1 else library.Sequence(kind, length=crops)
    return features


def _write_split(
    library: Any,
    cache: Cache,
    split: str,
    features: Any,
    forms: dict[str, tuple[int, type]],
    file: Path,
) -> None:
    """Write the rows of a split as one Arrow stream, block by block."""
    rows = cache.manifest.indices(split)
    schema = features.arrow_schema
    table = cache.manifest.rows.drop_columns(list(_DROPPED))
    file.parent.mkdir(exist_ok=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            part = table.take(pa.array(block)).combine_chunks()
            columns = [part[name].combine_chunks() for name in part.column_names]
            columns += [_lists(cache.row_features(block, n), *form) for n, form in forms.items()]
            arrays = [c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _lists(values: np.ndarray, crops: int, dtype: type) -> pa.Array:
    """Return features (n, v, D) as a column of fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(values, dtype=dtype).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[2])
    return lists if crops == 1 else pa.FixedSizeListArray.from_arrays(lists, crops)


@contextmanager
def _without_bars(library: Any) -> Iterator[None]:
    shown = library.is_progress_bar_enabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()


def _card(cache: Cache) -> str:
    dims = exported_fields(cache)
    fields = [f"| `{name}` | features ({dim}), not normalised |" for name, dim in dims.items()]
    names = unique_names(cache.classes)
    pairs = zip(cache.classes.names, names, strict=True)
    renamed = [f"`{old}` is `{new}`" for old, new in pairs if old != new]
    return _CARD.format(
        name=cache.manifest.name,
        rows=len(cache.manifest),
        splits=", ".join(cache.splits),
        classes=cache.manifest.num_classes,
        first=cache.splits[0],
        field=next(iter(dims)),
        fields="\n".join(fields),
        encoder=cache.encoder["architecture"]["name"],
        tower=cache.encoder["towers"]["image"],
        precision=cache.numerics.get("precision"),
        device=cache.numerics.get("device"),
        digest=cache.manifest.identity()["rows"],
        provenance=PROVENANCE,
        renamed=f"\nRepeated class names: {'; '.join(renamed)}.\n" if renamed else "",
    )
