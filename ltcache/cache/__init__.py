"""Write-once feature caches on disk; the only part of ltcache that knows HDF5."""
