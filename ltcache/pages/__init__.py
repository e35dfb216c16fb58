"""Pages of thumbnails, each one file that opens from disk and loads nothing."""

from ltcache.pages.cached_images import cache_pictures
from ltcache.pages.page_pictures import PagePictures, PageSummary, PictureFile, find_store
from ltcache.pages.picture_page import (
    PictureCard,
    PictureListing,
    write_pictures_page,
)
from ltcache.pages.single_file import write_page

__all__ = [
    "PagePictures",
    "PageSummary",
    "PictureCard",
    "PictureFile",
    "PictureListing",
    "cache_pictures",
    "find_store",
    "write_page",
    "write_pictures_page",
]
