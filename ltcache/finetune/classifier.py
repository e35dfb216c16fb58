"""Class texts as the text tower gives them, also while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltcache.process import to_device

_CHUNK = 256  # sentences encoded at once where no gradient is kept


class ClassTexts(nn.Module):
    """The text embedding of each class: the mean of its unit sentence embeddings, made unit.

    Args:
        model: an open_clip model, which stays its caller's. tokenizer: of the model.
        sentences: C lists of at least one sentence each, in label order.
        trains: whether the text tower trains; one that does not encodes its texts once.
        device: where the model is.

    Which sentences a batch needs, and how many, is found on the host: labels and classes are given
    there, so that no step waits for a GPU to tell.
    """

    tokens: Tensor

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
        self.which = which  # on the host, whatever device the rest is on
        self._of_all = torch.unique(which.clamp(min=0), return_inverse=True)
        self._known: Tensor | None = None
        self._sentences: Tensor | None = None

    def forward(self, classes: Tensor | None = None) -> Tensor:
        """Return unit text embeddings in float32, (C, D), or (K, D) of ``classes``.

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
        return self._known if classes is None else self._known[self._here(classes)]

    def drawn(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """Return the unit embedding of one sentence of each label's class, float32 (N, D).

        With gradients where the tower trains and they are enabled; one that does not encodes all of
        its sentences once.

        Args:
            labels: (N,), on the CPU.
            uniform: float64 (N,), on the CPU, 0 <= u < 1: which of the class's sentences.
        """
        which = self.which[labels]  # (N, M)
        place = ((which >= 0).sum(dim=1) * uniform).long()
        used, back = torch.unique(which.gather(1, place[:, None])[:, 0], return_inverse=True)
        if self.trains:
            return self._encoded(used, whole=torch.is_grad_enabled())[self._here(back)]
        if self._sentences is None:
            off = torch.autocast(self.tokens.device.type, enabled=False)
            with torch.no_grad(), off:
                everything = torch.arange(len(self.tokens))
                self._sentences = self._encoded(everything, whole=False)
        return self._sentences[self._here(used[back])]

    def _rows(self, classes: Tensor | None, whole: bool) -> Tensor:
        which = self.which if classes is None else self.which[classes]  # (K, M)
        used, place = self._of_all
        if classes is not None:
            used, place = torch.unique(which.clamp(min=0), return_inverse=True)
        rows = self._encoded(used, whole)
        there = self._here(which >= 0).to(rows.dtype)[..., None]  # (K, M, 1)
        return F.normalize((rows[self._here(place)] * there).sum(dim=1), dim=1)

    def _here(self, values: Tensor) -> Tensor:
        """Return numbers that were found on the host, where the model is."""
        return to_device(values, self.tokens.device)

    def _encoded(self, used: Tensor, whole: bool) -> Tensor:
        """Return the unit embeddings of sentences by their numbers (S,), (S, D)."""
        tokens = self.tokens[self._here(used)]
        parts = [tokens] if whole else tokens.split(_CHUNK)
        return torch.cat([F.normalize(self._encode(part).float(), dim=1) for part in parts])
