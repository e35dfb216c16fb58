"""From a model's name to an :class:`~ltcache.encoder.encoder.Encoder`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

from ltcache.encoder.child import read_checkpoint, require_recorded, restore
from ltcache.encoder.choice import EncoderChoice
from ltcache.encoder.device import choose_device, require_precision
from ltcache.encoder.encoder import Encoder, encoder_of
from ltcache.encoder.identity import ACTIVATIONS
from ltcache.encoder.plain_model import write_open_clip, write_timm
from ltcache.encoder.random_start import skip_random_start
from ltcache.encoder.source import EncoderSource, checkpoint_named, resolve
from ltcache.encoder.timm_tower import TIMM, load_timm
from ltcache.encoder.tokens import load_tokenizer
from ltcache.encoder.weights import load_weights
from ltcache.errors import EncoderError, first_line

_OPEN_CLIP = str(Path(open_clip.__file__).parent)


def load_encoder(
    model: str = "embedded",
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    activation: str | None = None,
    cache_dir: str | None = None,
) -> Encoder:
    """Load an encoder through open_clip, or an image-only one through timm, and identify it by its
    weights.

    Args:
        model: ``embedded``; an architecture of open_clip (``ViT-B-32``), also with its tag
            (``ViT-B-32,openai``); ``hf-hub:org/name``; or ``local-dir:/path``, a folder with
            ``open_clip_config.json`` and weights, or a checkpoint of ``finetune`` (also its plain
            path). ``timm:NAME``, also with its tag
            (``timm:resnet50.a1_in1k``), has no text tower (:mod:`ltcache.encoder.timm_tower`).
        pretrained: for an architecture: a tag, the path of a weights file (a training checkpoint
            too), or ``random:SEED`` for tests and timing. For a checkpoint with adapters: the
            model that it was tuned from, where that is no longer where it was.
        device: ``auto`` (an NVIDIA GPU if torch can use one), ``cpu``, ``cuda``, ``cuda:1``...
        precision: ``fp32``, ``bf16`` (weights too), ``fp16`` (GPU only) or ``tf32`` (float32 whose
            products an NVIDIA GPU makes with 10 bits of the mantissa).
        activation: ``gelu`` or ``quick_gelu``; needed for a weights file that comes without a
            record, refused where it contradicts one.
        cache_dir: where downloaded weights are kept.

    Raises:
        UsageError: options that cannot be meant or cannot go together.
        EncoderError: unknown, missing, damaged, unreachable or contradicted by its record.
    """
    return load_chosen(EncoderChoice(model, pretrained, activation, device, precision, cache_dir))


def load_chosen(choice: EncoderChoice) -> Encoder:
    """Load the encoder that a choice names; see :func:`load_encoder`."""
    precision = choice.precision or "fp32"
    place = choose_device(choice.device)
    require_precision(precision, place)
    return family_of(choice.name).load(choice, device=place, precision=precision)


def _load_open_clip(choice: EncoderChoice, *, device: torch.device, precision: str) -> Encoder:
    source = resolve(choice)
    built = build(source, choice.cache_dir)
    tokenizer = load_tokenizer(source, choice.cache_dir)
    child = source.child
    adapters = child.adapters if child else ()
    encoder = encoder_of(
        built, source, tokenizer, device=device, precision=precision, adapters=adapters
    )
    if child:
        require_recorded(encoder.identity, child)
    return encoder


@dataclass(frozen=True)
class EncoderFamily:
    """Encoders whose names begin alike.

    Args:
        load: called as ``load(choice, device=device, precision=precision)``, both chosen already.
        has_texts: whether they have a text tower.
        write: of encoders that can be tuned, called as ``write(folder, encoder, state)``: writes a
            whole model as its own library reads it, and returns its tokenizer's part of the
            identity; ``load`` takes such a folder by its checkpoint's name.
    """

    load: Callable[..., Encoder]
    has_texts: bool = True
    write: Callable[..., Mapping[str, Any] | None] | None = None


ENCODER_FAMILIES = {TIMM: EncoderFamily(load_timm, has_texts=False, write=write_timm)}
"""Beginning of a model's name -> family; all other names are open_clip's."""


def family_of(name: str) -> EncoderFamily:
    """Return the family of a model's name; of a checkpoint's that of its encoder.

    Raises:
        EncoderError: a checkpoint that cannot be read.
    """
    checkpoint = checkpoint_named(name)
    begins = name if checkpoint is None else read_checkpoint(checkpoint).family
    found = (family for start, family in ENCODER_FAMILIES.items() if begins.startswith(start))
    return next(found, EncoderFamily(_load_open_clip, write=write_open_clip))


def build(source: EncoderSource, cache_dir: str | None = None) -> Any:
    """Return the model of a source in float32 on the CPU, with its weights, for inference.

    Raises:
        EncoderError: a configuration that open_clip cannot build, or a weights file that is
            damaged or does not fit it.
    """
    start = nullcontext() if source.checkpoint is None else skip_random_start()
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(source.seed or 0)  # not those of GPUs
        try:
            with start:
                model = _create(source, cache_dir)
        except ImportError as error:
            raise EncoderError(f"{source.name} needs {error.name or error}") from None
        except Exception as error:  # any nonsense in a configuration ends here
            raise EncoderError(f"{source.name}: cannot be built ({first_line(error)})") from None
        if source.checkpoint is not None:
            load_weights(model, source.checkpoint, source.name)
        for layer in source.layers:
            restore(model, layer)
    return model.eval().requires_grad_(False)


def _create(source: EncoderSource, cache_dir: str | None) -> Any:
    return open_clip.create_model(
        source.name,
        load_weights=False,
        pretrained_text=False,
        force_preprocess_cfg=dict(source.preprocess),
        cache_dir=cache_dir,
        quick_gelu=source.activation == ACTIVATIONS[True],
    )


def _from_open_clip(record: logging.LogRecord) -> bool:
    return not (record.pathname.startswith(_OPEN_CLIP) and record.levelno < logging.ERROR)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning of random weights before it has got the right ones.

    It logs on the root logger, which would also configure that logger if it has no handler.
    """
    root = logging.getLogger()
    bare = not root.handlers
    handler = logging.NullHandler()
    if bare:
        root.addHandler(handler)
    root.addFilter(_from_open_clip)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")
            yield
    finally:
        root.removeFilter(_from_open_clip)
        if bare:
            root.removeHandler(handler)
