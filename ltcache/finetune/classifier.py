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
        self._sentences: Tensor | None = None

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

    def drawn(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """Return the unit embedding of one sentence of each label's class, float32 (N, D).

        With gradients where the tower trains and they are enabled; one that does not encodes all of
        its sentences once.

        Args:
            labels: (N,). uniform: float64 (N,), 0 <= u < 1: which of the class's sentences.
        """
        which = self.which[labels]  # (N, M)
        place = ((which >= 0).sum(dim=1) * uniform).long()
        used, back = torch.unique(which.gather(1, place[:, None])[:, 0], return_inverse=True)
        if self.trains:
            return self._encoded(used, whole=torch.is_grad_enabled())[back]
        if self._sentences is None:
            off = torch.autocast(self.tokens.device.type, enabled=False)
            with torch.no_grad(), off:
                everything = torch.arange(len(self.tokens), device=self.tokens.device)
                self._sentences = self._encoded(everything, whole=False)
        return self._sentences[used][back]

    def _rows(self, classes: Tensor | None, whole: bool) -> Tensor:
        which = self.which if classes is None else self.which[classes]  # (K, M)
        used, place = torch.unique(which.clamp(min=0), return_inverse=True)
        rows = self._encoded(used, whole)
        there = (which >= 0).to(rows.dtype)[..., None]  # (K, M, 1)
        return F.normalize((rows[place] * there).sum(dim=1), dim=1)

    def _encoded(self, used: Tensor, whole: bool) -> Tensor:
        """Return the unit embeddings of sentences by their numbers (S,), (S, D)."""
        tokens = self.tokens[used]
        parts = [tokens] if whole else tokens.split(_CHUNK)
        return torch.cat([F.normalize(self._encode(part).float(), dim=1) for part in parts])
