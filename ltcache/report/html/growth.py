"""What more training images would buy, as a table of the page."""

from __future__ import annotations

from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.more_images import MoreImages, more_images_cells, more_images_note


def growth_table(found: MoreImages, number: int) -> PageTable:
    """Return the errors of each group on parts of the images, and foretold with more of them.

    Args:
        number: of the table on the page, from 0.
    """
    heading, rows = more_images_cells(found)
    cells = [[PageCell(text) for text in row] for row in rows]
    return PageTable(f"growth-{number}", more_images_note(found), heading, cells)
