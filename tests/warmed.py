"""Everything that commands import, for a server to import before it forks them."""

from __future__ import annotations

import pandas  # noqa: F401
import torch
from PIL import Image

import ltcache.ablate
import ltcache.ensemble
import ltcache.evaluate
import ltcache.examine
import ltcache.extract
import ltcache.finetune
import ltcache.report
import ltcache.retrieval
import ltcache.transfer
import ltcache.zero_shot  # noqa: F401
from ltcache.cli import cli  # noqa: F401
from ltcache.encoder import load_encoder  # noqa: F401

Image.init()
torch.set_num_threads(1)  # a server with one thread is forked safely
