"""Class texts as the text tower gives them, also while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CHUNK = 256  # sentences encoded at once where no gradient is kept


class ClassTexts(nn.Module):
    """The text embedding of each class: the mean of its unit sentence embeddings, made unit.

    Args:
        model: an open_clip model, which stays its caller's. tokenizer: of the model.
        sentences: C lists of at least one sentence each, in label order.
        trains: whether the text tower trains; one that does not encodes its texts once.
        device: where the model is.
    """

    tokens: Tensor
    which: Tensor

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        sentences: Sequence[Sequence[str]],
        *,
        trains: bool,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._encode = model.encode_text
        self.trains = trains
        number: dict[str, int] = {}
        for texts in sentences:
            for text in texts:
                number.setdefault(text, len(number))
        most = max(map(len, sentences))
        which = torch.full((len(sentences), most), -1)
        for label, texts in enumerate(sentences):
            which[label, : len(texts)] = torch.tensor([number[text] for text in texts])
        self.register_buffer("tokens", tokenizer(list(number)).to(device), persistent=False)
        self.register_buffer("which", which.to(device), persistent=False)
        self._known: Tensor | None = None

    def forward(self, classes: Tensor | None = None) -> Tensor:
        """Return unit text embeddings in float32, (C, D), or (K, D) of ``classes`` (K,).

        With gradients where the tower trains and they are enabled.
        """
        if self.trains and torch.is_grad_enabled():
            return self._rows(classes, whole=True)
        if self.trains:
            return self._rows(classes, whole=False)
        if self._known is None:
            off = torch.autocast(self.tokens.device.type, enabled=False)
            with torch.no_grad(), off:
                self._known = self._rows(None, whole=False)
        return self._known if classes is None else self._known[classes]

    def _rows(self, classes: Tensor | None, whole: bool) -> Tensor:
        which = self.which if classes is None else self.which[classes]  # (K, M)
        used, place = torch.unique(which.clamp(min=0), return_inverse=True)
        tokens = self.tokens[used]
        parts = [tokens] if whole else tokens.split(_CHUNK)
        rows = torch.cat([F.normalize(self._encode(part).float(), dim=1) for part in parts])
        there = (which >= 0).to(rows.dtype)[..., None]  # (K, M, 1)
        return F.normalize((rows[place] * there).sum(dim=1), dim=1)
