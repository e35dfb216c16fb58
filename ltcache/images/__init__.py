"""Images: where their bytes come from, and how bytes become the pixels that an encoder sees.

The default decoder gives open_clip's own pixels bit for bit wherever open_clip's transform works,
and timm's where the encoder is timm's (``crop_pct``; RGB first, so no mode is resized by itself).
No image ends a run, and none costs its batch: what cannot be read or decoded becomes a failed row
with the reason beside its key. What becomes of unusual images:

===========================  =======================================================================
image                        outcome
===========================  =======================================================================
CMYK, YCbCr, LAB             converted to RGB by Pillow, without a colour profile
palette, 1 bit               resized by nearest neighbour as in open_clip, then RGB
grey of 16, 32 bits, float   failed where levels are below 0 or above 255, or floats of 0 to 1:
                             open_clip clips them to white or black; bring them to 8 bits before
grey with alpha, RGBA        resized with weighted alpha, then the alpha channel is dropped
EXIF rotation                not applied, as in open_clip; an extraction counts such images
animated GIF, WebP, PNG      the first frame
1 pixel                      enlarged
20,000 x 1                   the centre of the enlarged image; where all of it would be more than
                             ``MAX_PIXELS``, only that is made (equal but for a few levels); no
                             edge becomes less than one pixel
corrupt metadata             ignored where the pixels can be decoded
truncated                    failed: ``image file is truncated`` or the decoder's own words
0 bytes                      failed: ``empty file (0 bytes)``
text named .jpg              failed: ``not an image that Pillow knows``
more than ``MAX_PIXELS``     failed before decoding: a decompression bomb
more than ``MAX_BYTES``      failed before reading, also where an archive only claims so much
directory named x.jpg        failed: ``Is a directory``; in a folder source it is a class folder
pipe, socket, device         failed without waiting: ``not a regular file``
link to itself               failed: ``Too many levels of symbolic links``
no read permission           failed: ``Permission denied``
path that leaves its root    failed; lists with such paths are refused as a whole
===========================  =======================================================================
"""

from ltcache.images.chunks import (
    ChunkDecoder,
    ChunkImage,
    DecoderRecipe,
    ImageOutcome,
    blank,
    chunk_decoder,
)
from ltcache.images.composites import (
    CompositeDraw,
    PartnerImages,
    PartnerRows,
    PixelBox,
    paste_box,
    paste_over,
    uncovered_share,
)
from ltcache.images.decode_processes import DecodeProcesses, modules_of_entries
from ltcache.images.decoders import DECODERS, NVJPEG, PILLOW, require_decoder, start_of_thread
from ltcache.images.decoding import (
    DecodedImage,
    DecodedViews,
    decode,
    decode_views,
    opened,
    partner_images,
)
from ltcache.images.inputs import inputs
from ltcache.images.pixel_memory import PixelMemory
from ltcache.images.preprocessing import MAX_PIXELS, Preprocessing
from ltcache.images.thumbnails import thumbnail, thumbnail_uri
from ltcache.images.views import (
    DRAWS,
    RATIO,
    SCALE,
    View,
    is_composite,
    parse_views,
    random_box,
)
from ltcache.manifest import ImageInput, ImageStore, open_store, read_file

__all__ = [
    "DECODERS",
    "DRAWS",
    "MAX_PIXELS",
    "NVJPEG",
    "PILLOW",
    "RATIO",
    "SCALE",
    "ChunkDecoder",
    "ChunkImage",
    "CompositeDraw",
    "DecodeProcesses",
    "DecodedImage",
    "DecodedViews",
    "DecoderRecipe",
    "ImageInput",
    "ImageOutcome",
    "ImageStore",
    "PartnerImages",
    "PartnerRows",
    "PixelBox",
    "PixelMemory",
    "Preprocessing",
    "View",
    "blank",
    "chunk_decoder",
    "decode",
    "decode_views",
    "inputs",
    "is_composite",
    "modules_of_entries",
    "open_store",
    "opened",
    "parse_views",
    "partner_images",
    "paste_box",
    "paste_over",
    "random_box",
    "read_file",
    "require_decoder",
    "start_of_thread",
    "thumbnail",
    "thumbnail_uri",
    "uncovered_share",
]
