"""Where images lie: a folder, an archive or a table, here or behind an address of fsspec.

What a manifest keeps are uris below its root, the same on every machine; a cache keeps the root in
a file that no digest covers (:mod:`ltcache.manifest.root_file`).

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
