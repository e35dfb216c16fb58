"""An encoder as one value: images and texts in, features out, with an identity."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from ltcache.encoder.adapters import AdapterSpec, adapters_of
from ltcache.encoder.child import short_name
from ltcache.encoder.device import PRECISIONS, numerics_of, products_in
from ltcache.encoder.fields import EMBEDDING, POOLED, FieldForward, fields_of
from ltcache.encoder.identity import (
    architecture,
    float_state,
    tokenizer_identity,
    tower_digests,
)
from ltcache.encoder.pending import PendingFeatures, copy_out, to_cpu
from ltcache.encoder.record import preprocessing_of
from ltcache.encoder.rest import TOKENS, save_rest, tap_of
from ltcache.encoder.source import EncoderSource
from ltcache.encoder.tokens import count_cut
from ltcache.errors import EncoderError, UsageError
from ltcache.images import Preprocessing
from ltcache.process import ConcurrentPasses, passes_at_once
from ltcache.records import JsonObject

log = logging.getLogger(__name__)


class Encoder:
    """A dual encoder that is ready to run; build one with :func:`ltcache.encoder.load_encoder`.

    Attributes:
        has_texts: whether it has a text tower.
        family: how the names of its kind begin (:data:`ltcache.encoder.ENCODER_FAMILIES`), which
            its checkpoints record; empty: open_clip's. None: it cannot be tuned, since no
            checkpoint of it can be written and read again.
        model, tokenizer: open_clip's own, for what this class does not offer.
        preprocessing: how images become its input.
        identity: architecture, tower digests, tokenizer, preprocessing, dims; JSON-able, and the
            same for the same function however it was named and wherever it runs.
        source: what its model was built from.
        provenance: how it was named (``model``, ``pretrained``, ``activation``); in no identity.
        dims: field -> dimension: ``embedding`` (D), and ``pooled`` (P) where it exists.
        projection: float32 (P, D) with ``embedding = pooled @ projection + projection_bias``, or
            None; projection_bias: float32 (D,) or None.
        logit_scale: exponentiated, or None; logit_bias: or None.
        device: a ``torch.device``; precision: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
    """

    has_texts: ClassVar[bool] = True
    family: ClassVar[str | None] = ""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        source: EncoderSource,
        fields: FieldForward,
        preprocessing: Preprocessing,
        *,
        identity: Mapping[str, Any],
        device: torch.device,
        precision: str,
    ) -> None:
        """Move a model in memory to its device.

        Args:
            model: in inference mode; it is not copied, but moved to ``device`` in ``precision``.
            fields: how its image tower is run.
            identity: ``architecture``, ``towers`` and ``tokenizer``; what follows from the other
                arguments is added.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.source = source
        self.provenance: Mapping[str, str | None] = dict(source.provenance)
        self.logit_scale = _number(getattr(model, "logit_scale", None), exponentiate=True)
        self.logit_bias = _number(getattr(model, "logit_bias", None))
        self.device = device
        self.precision = precision
        self.dtype = PRECISIONS[precision]
        model.to(device=device, dtype=self.dtype)
        self._fields = fields
        # the rest behind an adapter's tokens would lack the adapter
        self._tap = None if identity["architecture"]["adapters"] else tap_of(model)
        self._channels_last = False
        # made once: a copy to the device in each batch would wait for the batch before it
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._white = torch.tensor(255.0, device=device)  # for a number a GPU takes 1 / 255
        self._copies: torch.cuda.Stream | None = None
        projection = fields.projection
        self.projection: np.ndarray | None = projection.weight if projection else None
        self.projection_bias: np.ndarray | None = projection.bias if projection else None
        self.dims: dict[str, int] = fields.dims or self._probe()
        self.identity: Mapping[str, Any] = {
            **identity,
            "preprocessing": preprocessing.to_dict(),
            "dims": dict(self.dims),
        }
        if is_convolutional(model.visual) and (device.type == "cpu" or precision != "fp32"):
            self.use_channels_last()

    @property
    def adapters(self) -> list[Mapping[str, Any]]:
        """Return what was inserted into the image tower and not merged, ``{name, options}``."""
        return list(self.identity["architecture"]["adapters"] or ())

    def with_model(
        self, model: Any, adapters: Sequence[AdapterSpec | Mapping[str, Any]] | None = None
    ) -> Encoder:
        """Return an encoder of a model that was tuned from a copy of this encoder's.

        It has the same tokenizer, preprocessing and architecture, and an identity of its own: the
        model's tensors are digested as they are now, so ask again after they have changed. Its
        provenance names no model before it is saved, and this encoder as ``parent``.

        Args:
            model: ``copy.deepcopy(encoder.model)`` after training; it is used, not copied, stays on
                its device, and is put into inference mode.
            adapters: those left in its image tower, with resolved options; None: those it has.
        """
        parent = short_name(self.provenance) if self.provenance.get("model") else None
        named = {"model": None, "pretrained": None, "activation": None, "parent": parent}
        left = adapters_of(model) if adapters is None else adapters
        records = [_adapter_record(adapter) for adapter in left]
        return type(self)(
            model.eval(),
            self.tokenizer,
            replace(self.source, provenance=named, child=None),
            fields_of(model),
            self.preprocessing,
            identity={
                "architecture": {**self.identity["architecture"], "adapters": records or None},
                "towers": tower_digests(float_state(model)),
                # one that has been used remembers how it padded, and would look like another
                "tokenizer": self.identity["tokenizer"],
            },
            device=next(model.parameters()).device,
            precision=self.precision,
        )

    @property
    def token_shape(self) -> tuple[int, int] | None:
        """Shape (T, P) of one image's ``tokens`` (:mod:`ltcache.encoder.rest`), None without."""
        if self._tap is None:
            return None
        if self._tap.shape is None:
            found = self.forward_fields(self._grey(), tokens=True)[TOKENS]
            self._tap.shape = (found.shape[1], found.shape[2])
        return self._tap.shape

    def rest(self) -> dict[str, np.ndarray]:
        """Return the tensors that :func:`ltcache.encoder.build_rest` makes the rest of.

        Raises:
            UsageError: this tower has no tokens.
        """
        if self._tap is None or self.token_shape is None:
            raise UsageError("this encoder has no tokens, so there is no rest behind them")
        return save_rest(self._tap)

    def numerics(self) -> Mapping[str, Any]:
        """Return what the last bits of the features depend on besides the identity."""
        layout = "channels_last" if self._channels_last else "contiguous"
        return numerics_of(self.device, self.precision, layout)

    def encode_images(
        self, pixels: torch.Tensor, fields: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Encode a batch of decoded images in one forward.

        Args:
            pixels: uint8 (N, 3, H, W) at the size of :attr:`preprocessing`, on the CPU.
            fields: which of :attr:`dims` to return; all of them by default.

        Returns:
            field -> float32 (N, dim) on the CPU; ``embedding`` is what ``model.encode_image``
            gives, not normalised.

        Raises:
            UsageError: pixels of another type or size, or a field that this encoder has not.
        """
        return self.submit(pixels, fields).result()

    def submit(self, pixels: torch.Tensor, fields: Sequence[str] | None = None) -> PendingFeatures:
        """Start :meth:`encode_images` and return at once on a GPU (on a CPU it is then done).

        Pinned pixels are copied while the GPU computes an earlier batch; features come back
        without a stop of the device. At most a few batches should be pending: each holds memory.
        """
        names = self._check(pixels, fields)
        if self.device.type != "cuda":
            found = self.forward_fields(pixels.to(self.device), tokens=TOKENS in names)
            return PendingFeatures({name: to_cpu(found[name]) for name in names})
        pinned = pixels if pixels.is_pinned() else pixels.pin_memory()
        found = self.forward_fields(self._copy_in(pinned), tokens=TOKENS in names)
        features = {name: copy_out(found[name]) for name in names}
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return PendingFeatures(features, event, (pinned,))

    @torch.inference_mode()
    def forward_fields(
        self, pixels: torch.Tensor, *, tokens: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return every field of uint8 pixels (N, 3, H, W) that are on the device, there.

        ``tokens`` (N, T, P) are among them only if asked for.

        Normalised in float32 as ``ToTensor`` and ``Normalize`` do, bit for bit; the features have
        the precision of the model.
        """
        images = pixels.to(torch.float32).div_(self._white).sub_(self._mean).div_(self._std)
        images = images.to(self.dtype)
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with products_in(self.precision):
            if not tokens or self._tap is None:
                return self._fields(images)
            with self._tap.noting() as noted:
                found = self._fields(images)
            return {**found, **noted}

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Encode texts as ``model.encode_text`` does.

        A text longer than the context is cut, as open_clip does; how many were is logged once. A
        CPU encodes several batches at once where torch has fewer threads than the processors allow.

        Returns:
            float32 (N, D) on the CPU, not normalised.
        """
        pending: list[Future[torch.Tensor]] = []
        cut: list[str] = []
        with ConcurrentPasses(passes_at_once(self.device.type)) as passes:
            for start in range(0, len(texts), batch_size):
                batch = list(texts[start : start + batch_size])
                tokens = self.tokenizer(batch)
                cut += count_cut(self.tokenizer, batch, tokens)
                pending.append(passes.submit(self._text_rows, tokens))
            rows = [torch.empty(0, self.dims[EMBEDDING]), *(found.result() for found in pending)]
        if cut:
            log.warning(
                "%d of %d texts are longer than %d tokens and were cut, such as %r",
                len(cut), len(texts), self.tokenizer.context_length, cut[0],
            )  # fmt: skip
        return torch.cat(rows)

    def use_channels_last(self) -> None:
        """Lay convolutions out channels last: 1.4 to 1.7 times as fast on two CPU cores.

        Sums are taken in another order, so the last float32 bits change: part of ``numerics``.
        """
        self.model.visual.to(memory_format=torch.channels_last)
        self._channels_last = True

    @torch.inference_mode()
    def _text_rows(self, tokens: torch.Tensor) -> torch.Tensor:
        with products_in(self.precision):
            return to_cpu(self.model.encode_text(tokens.to(self.device), normalize=False))

    @torch.inference_mode()
    def _probe(self) -> dict[str, int]:
        """Return the dimensions of the fields, found by encoding one grey image."""
        found = self.forward_fields(self._grey())
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        if any(len(shape) != 2 for shape in shapes.values()):
            raise EncoderError(
                f"the image tower gives {shapes} for one image, not one vector: its pooling "
                "is not one that features can be cached from"
            )
        return {name: shape[1] for name, shape in shapes.items()}

    def _grey(self) -> torch.Tensor:
        height, width = self.preprocessing.size
        return torch.full((1, 3, height, width), 127, dtype=torch.uint8, device=self.device)

    def _check(self, pixels: torch.Tensor, fields: Sequence[str] | None) -> tuple[str, ...]:
        expected = (3, *self.preprocessing.size)
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != expected:
            raise UsageError(
                f"pixels are {pixels.dtype} {tuple(pixels.shape)}, not torch.uint8 "
                f"(N, {', '.join(map(str, expected))})"
            )
        names = tuple(self.dims) if fields is None else tuple(fields)
        for name in names:
            if name not in self.dims and not (name == TOKENS and self._tap is not None):
                why = " (its projection is inside the pooling)" if name == POOLED else ""
                raise UsageError(f"this encoder has no field {name!r}{why}: {', '.join(self.dims)}")
        return names

    def _copy_in(self, pinned: torch.Tensor) -> torch.Tensor:
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._copies):
            pixels = pinned.to(self.device, non_blocking=True)
        main = torch.cuda.current_stream(self.device)
        main.wait_stream(self._copies)
        pixels.record_stream(main)
        return pixels


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
    identity = {
        "architecture": architecture(source.config, source.activation, adapters),
        "towers": tower_digests(float_state(model)),
        "tokenizer": tokenizer_identity(tokenizer),
    }
    return Encoder(
        model,
        tokenizer,
        source,
        fields_of(model),
        preprocessing_of(model),
        identity=identity,
        device=device,
        precision=precision,
    )


def is_convolutional(tower: torch.nn.Module) -> bool:
    """Whether an image tower is made of convolutions, not only cut into patches by one."""
    return sum(isinstance(module, torch.nn.Conv2d) for module in tower.modules()) > 2


def _number(tensor: torch.Tensor | None, exponentiate: bool = False) -> float | None:
    if tensor is None:
        return None
    value = tensor.detach().cpu().float().reshape(-1)[0]
    return float(value.exp() if exponentiate else value)


def _adapter_record(adapter: AdapterSpec | Mapping[str, Any]) -> JsonObject:
    fields = adapter if isinstance(adapter, Mapping) else vars(adapter)
    return {"name": fields["name"], "options": dict(fields["options"])}
