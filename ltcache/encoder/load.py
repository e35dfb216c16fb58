"""From a model's name to an :class:`~ltcache.encoder.encoder.Encoder`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from torch.overrides import TorchFunctionMode

from ltcache.encoder.child import require_recorded, restore
from ltcache.encoder.device import choose_device
from ltcache.encoder.encoder import Encoder
from ltcache.encoder.fields import fields_of
from ltcache.encoder.identity import (
    ACTIVATIONS,
    architecture,
    float_state,
    tokenizer_identity,
    tower_digests,
)
from ltcache.encoder.rest import tap_of
from ltcache.encoder.source import EncoderSource, resolve
from ltcache.encoder.tokens import load_tokenizer
from ltcache.encoder.weights import first_line, load_weights
from ltcache.errors import EncoderError, UsageError
from ltcache.images import Preprocessing

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
        precision: ``fp32``, ``bf16`` (weights too) or ``fp16`` (GPU only).
        activation: ``gelu`` or ``quick_gelu``; needed for a weights file that comes without a
            record, refused where it contradicts one.
        cache_dir: where downloaded weights are kept.

    Raises:
        UsageError: options that cannot be meant or cannot go together.
        EncoderError: unknown, missing, damaged, unreachable or contradicted by its record.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    place = choose_device(device)
    if precision == "fp16" and place.type == "cpu":
        raise UsageError("precision 'fp16' needs a GPU; on a CPU use 'fp32' or 'bf16'")
    if model.startswith("timm:"):
        from ltcache.encoder.timm_tower import load_timm

        return load_timm(
            model,
            pretrained,
            device=place,
            precision=precision,
            activation=activation,
            cache_dir=cache_dir,
        )
    source = resolve(model, pretrained, activation, cache_dir)
    built = build(source, cache_dir)
    tokenizer = load_tokenizer(source, cache_dir)
    child = source.child
    adapters = child.adapters if child else ()
    encoder = encoder_of(
        built, source, tokenizer, device=place, precision=precision, adapters=adapters
    )
    if child:
        require_recorded(encoder.identity, child)
    return encoder


def encoder_of(
    model: Any,
    source: EncoderSource,
    tokenizer: Any,
    *,
    device: torch.device,
    precision: str,
    adapters: Sequence[Mapping[str, Any]] = (),
) -> Encoder:
    """Return the encoder of a model in memory, identified by the tensors that it has now.

    Args:
        model: in inference mode; it is not copied, but moved to ``device`` in ``precision``.
        source: what it was built from.
        adapters: what was inserted into its image tower and not merged, ``{name, options}`` each;
            such a tower has no tokens, because the rest behind them would lack the adapters.
    """
    state = float_state(model)
    fields, tap = fields_of(model), None if adapters else tap_of(model)
    model.to(device=device, dtype=PRECISIONS[precision])
    encoder = Encoder(
        model,
        tokenizer,
        fields,
        preprocessing_of(model),
        source=source,
        architecture=architecture(source.config, source.activation, adapters),
        towers=tower_digests(state),
        tokenizer_identity=tokenizer_identity(tokenizer),
        provenance=source.provenance,
        logit_scale=_number(state.get("logit_scale"), exponentiate=True),
        logit_bias=_number(state.get("logit_bias")),
        device=device,
        precision=precision,
        tap=tap,
    )
    if is_convolutional(model.visual) and (device.type == "cpu" or precision != "fp32"):
        encoder.use_channels_last()
    return encoder


def is_convolutional(tower: torch.nn.Module) -> bool:
    """Whether an image tower is made of convolutions, not only cut into patches by one."""
    return sum(isinstance(module, torch.nn.Conv2d) for module in tower.modules()) > 2


def build(source: EncoderSource, cache_dir: str | None = None) -> Any:
    """Return the model of a source in float32 on the CPU, with its weights, for inference.

    Raises:
        EncoderError: a configuration that open_clip cannot build, or a weights file that is
            damaged or does not fit it.
    """
    start = nullcontext() if source.checkpoint is None else _NoRandomStart()
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


def preprocessing_of(model: Any) -> Preprocessing:
    """Return the inference preprocessing of a model that open_clip built, as a value."""
    values = {**asdict(PreprocessCfg()), **model.visual.preprocess_cfg}
    for key in ("mean", "std"):
        if not isinstance(values[key], (list, tuple)):
            values[key] = (values[key],) * 3
    if values["interpolation"] == "random":  # open_clip: random in training, bicubic otherwise
        values["interpolation"] = "bicubic"
    return Preprocessing.from_dict(values)


def _number(tensor: torch.Tensor | None, exponentiate: bool = False) -> float | None:
    if tensor is None:
        return None
    value = tensor.detach().float().reshape(-1)[0]
    return float(value.exp() if exponentiate else value)


def skip_random_start() -> TorchFunctionMode:
    """Return a context in which modules are built without drawing their start values."""
    return _NoRandomStart()


class _NoRandomStart(TorchFunctionMode):
    """Leave parameters as they are allocated: strict loading fills every one of them.

    Drawing random numbers for weights that a file replaces takes longer than reading the file.
    """

    _DRAWS = (
        torch.nn.init.kaiming_uniform_,
        torch.nn.init.kaiming_normal_,
        torch.nn.init.xavier_uniform_,
        torch.nn.init.normal_,
        torch.nn.init.trunc_normal_,
        torch.nn.init.uniform_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


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
