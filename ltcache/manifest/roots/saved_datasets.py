"""Datasets that Hugging Face's ``datasets`` saved to disk: rows only, nothing is executed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import ImageError, ManifestError
from ltcache.extras import how_to_install
from ltcache.manifest.roots.folders import FolderRoot
from ltcache.manifest.roots.limits import stable_text
from ltcache.manifest.roots.parquet import image_bytes, image_column, row_of, row_test
from ltcache.manifest.roots.places import Place
from ltcache.manifest.text import some


class SavedDatasetRoot(FolderRoot):
    """A folder that ``save_to_disk`` made; its uris are rows."""

    @classmethod
    def recognises(cls, place: Place) -> bool:
        """See :meth:`RootFormat.recognises`."""
        return isinstance(place, Path) and is_saved_dataset(place)

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """See :meth:`RootFormat.index`: the column of images of each split."""
        return {
            name: part.select_columns([saved_image_column(self.folder, part)])
            for name, part in saved_splits(self.folder).items()
        }

    def contains(self) -> Callable[[str], bool]:
        """See :meth:`RootFormat.contains`."""
        return row_test({split: len(part) for split, part in saved_splits(self.folder).items()})

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        split, row = row_of(uri)
        if split not in self.index:
            raise ImageError("No such split in the dataset")
        dataset = self.index[split]
        if row >= len(dataset):
            raise ImageError("No such row in the dataset")
        try:
            (values,) = dataset[row].columns
        except Exception as error:  # Arrow's errors, according to what is damaged
            raise ImageError(stable_text(error)) from None
        return image_bytes(values[0])


def is_saved_dataset(path: Path) -> bool:
    """Return whether ``datasets``' ``save_to_disk`` made a folder."""
    names = ("dataset_dict.json", "state.json", "dataset_info.json")
    both, state, info = (os.path.isfile(path / name) for name in names)
    return both or (state and info)


def saved_splits(path: Path) -> dict[str, Any]:
    """Return split -> ``datasets.Dataset`` of a folder that ``save_to_disk`` made.

    Raises:
        ManifestError: ``datasets`` is not installed, or the folder is damaged.
    """
    return _loaded(path.resolve())


@lru_cache(maxsize=8)
def _loaded(path: Path) -> dict[str, Any]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ManifestError(
            f"{path}: saved Hugging Face datasets need 'datasets': {how_to_install('hf')}"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(path))
        if not isinstance(loaded, dict):
            loaded = {str(loaded.split or "train"): loaded}
        return {name: part.with_format("arrow") for name, part in loaded.items()}
    except Exception as error:  # Arrow, JSON, key and type errors, according to what is damaged
        raise ManifestError(f"{path}: cannot be read as a saved dataset: {error}") from None


def saved_image_column(path: Path, dataset: Any) -> str:
    """Return the column of a dataset that holds encoded images.

    Raises:
        ManifestError: there is none.
    """
    schema: pa.Schema = dataset.features.arrow_schema
    column = image_column(schema)
    if column is None:
        raise ManifestError(f"{path}: no column of images among {some(schema.names, 12)}")
    return column
