"""Tokenizers: built from open_clip's configuration, and which texts they cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch

from ltcache.encoder.source import EncoderSource
from ltcache.errors import EncoderError


def load_tokenizer(source: EncoderSource, cache_dir: str | None = None) -> Any:
    """Return open_clip's tokenizer of a source; a relative vocabulary lies in its folder.

    Raises:
        EncoderError: a library or the vocabulary is missing.
    """
    options = dict(source.config["text_cfg"].get("tokenizer_kwargs") or {})
    path = options.get("bpe_path")
    found = {}
    if path and source.folder is not None and not Path(path).is_absolute():
        found["bpe_path"] = str(source.folder / path)
    try:
        return open_clip.get_tokenizer(source.name, cache_dir=cache_dir, **found)
    except ImportError as error:
        raise EncoderError(
            f"{source.name}: its tokenizer needs {error.name or error}: "
            "pip install transformers sentencepiece"
        ) from None
    except Exception as error:  # files and the hub's client raise many kinds
        raise EncoderError(f"{source.name}: cannot load its tokenizer ({error})") from None


def count_cut(tokenizer: Any, texts: Sequence[str], tokens: torch.Tensor) -> list[str]:
    """Return the texts that did not fit into the context.

    Only rows without room at their end are counted again, so this costs next to nothing.

    Args:
        tokens: int64 (N, context), what the tokenizer made of the texts.
    """
    context = tokens.shape[1]
    # the last token tells nothing: SigLIP pads with the end mark, CLIPA blanks it, CLIPS has its
    # class mark there
    full = (tokens[:, -2] != _padding(tokenizer)).nonzero().flatten().tolist()
    return [texts[row] for row in full if _length(tokenizer, texts[row]) > context]


def _padding(tokenizer: Any) -> int:
    inner = getattr(tokenizer, "tokenizer", None)
    number = getattr(inner, "pad_token_id", 0)
    return 0 if number is None else int(number)


def _length(tokenizer: Any, text: str) -> int:
    """Return the tokens of a text with its start and end marks, without a limit."""
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2
    cleaned = tokenizer.clean_fn(text) if hasattr(tokenizer, "clean_fn") else text
    if getattr(tokenizer, "tokenizer_mode", None) == "clips":  # start, end and class, by open_clip
        return len(tokenizer.tokenizer(cleaned, add_special_tokens=False).input_ids) + 3
    return len(tokenizer.tokenizer(cleaned).input_ids)
