"""``python -m ltcache``: the same as the command."""

from ltcache.cli import main

main()
