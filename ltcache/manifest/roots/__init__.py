"""Where images lie: a folder, an archive or a table, here or behind an address of fsspec.

A root is never stored: what a manifest keeps are uris below it, the same on every machine.

====================  =====================  =======================================================
root                  uri of an image        read how
====================  =====================  =======================================================
folder                path below it          one file
.zip file             name of the member     the member, without unpacking
.tar file or files    ``SHARD/MEMBER``, or   by offset, in the archive's order, without unpacking;
                      ``MEMBER`` if unique   ``{00000..00003}.tar`` names several
.parquet file(s)      ``FILE/ROW``           one row group at a time
saved HF dataset      ``SPLIT/ROW``          rows only, from Arrow files (extra ``hf``)
``memory://``, ...    path below it          any of fsspec's file systems; archives there too
====================  =====================  =======================================================
"""

from ltcache.manifest.roots.catalogue import (
    ROOT_FORMATS,
    named_among_images,
    open_store,
    root_format,
    root_suffixes,
)
from ltcache.manifest.roots.folders import file_input, read_file
from ltcache.manifest.roots.limits import stable_text
from ltcache.manifest.roots.places import (
    Place,
    RemotePlace,
    Root,
    ShardedRoot,
    as_root,
    one_root,
    places_of,
    root_name,
)
from ltcache.manifest.roots.root_format import ImageInput, ImageStore, NamedFiles, RootFormat

__all__ = [
    "ROOT_FORMATS",
    "ImageInput",
    "ImageStore",
    "NamedFiles",
    "Place",
    "RemotePlace",
    "Root",
    "RootFormat",
    "ShardedRoot",
    "as_root",
    "file_input",
    "named_among_images",
    "one_root",
    "open_store",
    "places_of",
    "read_file",
    "root_format",
    "root_name",
    "root_suffixes",
    "stable_text",
]
