"""What an export holds, read back: arrays of numpy, rows in parquet, records in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ltcache.cache import EXTRACTED, EncoderState, PromptEmbeddings
from ltcache.errors import ManifestError, UsageError
from ltcache.manifest import Manifest, read_json
from ltcache.records import file_digest, one_line
from ltcache.transfer.arrays import StackedArrays, read_arrays

FORMAT = 1
RECORD, ROWS, CLASSES, ENCODER = "export.json", "rows.parquet", "classes.json", "encoder.npz"


@one_line
@dataclass(frozen=True, eq=False)
class ExportResult:
    """An export.

    Args:
        manifest: its rows without the columns of extraction.
        stacks: field -> features; rows as in the manifest.
        encoder, prompts: of the cache that was exported.
        errors: row -> why it failed. sources: sha256, width and height of the images.
        files: that hold the features. unchanged: every file has the digest of its export.
    """

    manifest: Manifest
    stacks: Mapping[str, StackedArrays]
    encoder: EncoderState
    prompts: list[PromptEmbeddings]
    errors: Mapping[int, str]
    sources: Mapping[str, Sequence[Any]]
    files: list[Path]
    unchanged: bool


def read_export(path: Path) -> ExportResult:
    """Read what :func:`ltcache.transfer.export_cache` wrote.

    Raises:
        UsageError: files are missing or do not belong together.
    """
    try:
        record = read_json(path / RECORD)
        if record["format"] != FORMAT:
            raise UsageError(f"{path}: format {record['format']}, this ltcache reads {FORMAT}")
        table = pq.read_table(path / ROWS)
        header = read_json(path / CLASSES)
        files = [path / f"{field}.npy" for field in record["fields"]]
        stacks = {f.stem: StackedArrays([read_arrays(f)[f.stem]], f.stem) for f in files}
        tensors = read_arrays(path / ENCODER)
        unchanged = all(file_digest(path / n) == sha for n, sha in record["files"].items())
        plain = table.drop_columns([name for name in EXTRACTED if name in table.column_names])
        manifest = Manifest.from_header(header, plain)
        manifest.header()  # what cannot be written again is found here, not at the end
        prompts = [_read_prompts(path, entry) for entry in record["prompts"]]
        encoder = EncoderState(
            **record["encoder"],
            projection=tensors.get("projection"),
            projection_bias=tensors.get("projection_bias"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        if isinstance(error, (UsageError, ManifestError)):
            raise
        raise UsageError(f"{path}: not a whole export ({error})") from None
    for name, stack in stacks.items():
        if len(stack) != len(manifest):
            raise UsageError(f"{path}: {name}.npy has {len(stack)} rows, {ROWS} {len(manifest)}")
    errors = table["error"].to_pylist()
    return ExportResult(
        manifest=manifest,
        stacks=stacks,
        encoder=encoder,
        prompts=prompts,
        errors={row: text for row, text in enumerate(errors) if text is not None},
        sources={name: table[name].to_pylist() for name in ("sha256", "width", "height")},
        files=files,
        unchanged=unchanged,
    )


def _read_prompts(path: Path, entry: Mapping[str, Any]) -> PromptEmbeddings:
    arrays: dict[str, np.ndarray] = read_arrays(path / entry["file"])
    named = {name: arrays[name] for name in ("sentences", "count", "mean")}
    return PromptEmbeddings(entry["name"], entry["texts"], identity=entry["identity"], **named)
