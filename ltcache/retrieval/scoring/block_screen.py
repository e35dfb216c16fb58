"""Which pairs of a block may enter a list: the inner loop of the exact pass, in few passes.

Most images are candidates of no class, and a bound tells them cheaply. Split the classes into
groups; among the others of a class are the best classes of all other groups, so its log-odds lie
at most at those of its group's best logit among the groups' best. Where this bound is below every
threshold of every group, the image is passed over without a sum over all classes.

Of the images that remain, the best class may be so far above the others that its p_k rounds to 1:
it is left out of the sum over all classes, and compared by its log-odds. All others have p_k of at
most 1/2, which rounding spares, and are compared by ``log p_k``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltcache.errors import CacheError
from ltcache.process import to_device
from ltcache.retrieval.scoring.queries import ClassQueries
from ltcache.retrieval.scoring.top_lists import TopLists

_GROUPS = 64  # whole registers: a maximum over groups of another width takes eight times as long
_CPU_LOGITS, _GPU_LOGITS = 1 << 21, 1 << 25  # of one block
_LEAST_LIMIT = -1e30  # in place of -inf, which cannot be subtracted from -inf


class ScreenedPairs(NamedTuple):
    """Places of rows in a block, columns of logits, and float32 log-odds, (n,)."""

    rows: Tensor
    columns: Tensor
    log_odds: Tensor


class BlockScreen:
    """Logits of a block, and the pairs in it that may enter a list.

    Columns are those of a table (slots, groups), filled up with logits of -inf behind the last
    class. Classes that are asked for share at most one group with others, whose best logits would
    raise its bound.

    Args:
        queries: of all C classes. labels: int64 (T,), classes to list.
        dtype: of the products. device: of everything.
        block: rows at a time; by default what suits the device. most: rows of the pool.
    """

    def __init__(
        self,
        queries: ClassQueries,
        labels: np.ndarray,
        dtype: torch.dtype,
        device: torch.device,
        block: int | None = None,
        most: int = 1 << 16,
    ) -> None:
        self._classes, self._slots = queries.num_classes, -(-queries.num_classes // _GROUPS)
        width = self._slots * _GROUPS
        logits = _GPU_LOGITS if device.type == "cuda" else _CPU_LOGITS
        self.block = min(block or max(logits // width, 256), most)
        classes = _classes_of_columns(self._classes, labels)
        columns = np.empty(self._classes, np.int64)
        columns[classes] = np.arange(self._classes)
        self._columns = torch.from_numpy(columns[labels]).to(device)  # (T,)
        self._place = torch.full((width,), -1, dtype=torch.int64, device=device)
        self._place[self._columns] = torch.arange(len(labels), device=device)
        rows = np.ascontiguousarray(queries.scaled[:, classes])
        self._queries = torch.from_numpy(rows).to(device, dtype)
        self._unit = torch.empty(self.block, queries.dim, device=device)
        sentences = min(len(rows), 2)
        shape = (sentences, self.block, width)
        self._logits = torch.full(shape, -torch.inf, dtype=dtype, device=device)
        self._picked = torch.empty(shape[1:], device=device)  # memory that is new in every block
        self._terms = torch.empty(shape[1:], device=device)  # costs more than what is done in it

    def collect(self, rows: np.ndarray, values: np.ndarray, lists: TopLists) -> None:
        """Add the pairs of a block, (n,) rows and (n, D) embeddings, that are above thresholds.

        Raises:
            CacheError: embeddings that are not finite.
        """
        logits = self._products(values)
        if bool((lists.thresholds == -np.inf).all()):
            lists.raise_thresholds(log_odds(logits.float(), self._columns).cpu().numpy())
        thresholds = torch.full((logits.shape[1],), torch.inf, device=logits.device)
        known = torch.from_numpy(lists.thresholds)
        thresholds[self._columns] = to_device(known, logits.device)
        best = logits.view(len(logits), self._slots, _GROUPS).amax(dim=1).float()
        top, group = best.max(dim=1)
        least = thresholds.view(self._slots, _GROUPS).amin(dim=0)
        work = torch.empty_like(best)
        odds, second, total = _split(best, top, group, work)
        hit = odds >= least[group]
        hit[_reached(best, second, total, _limits(least), work)] = True
        chosen = hit.nonzero()[:, 0]
        for found in self._above(logits, chosen, top[chosen], group[chosen], thresholds):
            places = chosen[found.rows].cpu().numpy()
            where = self._place[found.columns].cpu().numpy()
            lists.add(rows[places], where, found.log_odds.cpu().numpy())

    def _products(self, values: np.ndarray) -> Tensor:
        """Return (n, columns) logits in the precision of the pass, of rows of any length."""
        block = self._unit[: len(values)].copy_(self._on_device(values))
        lengths = torch.linalg.vector_norm(block, dim=1, keepdim=True)
        if not bool(torch.isfinite(lengths).all()):
            raise CacheError("the pool's embeddings hold NaN or infinity: run ltcache verify")
        block = block.div_(lengths.clamp_(min=torch.finfo(torch.float32).tiny))
        block = block.to(self._queries.dtype)
        logits = self._logits[0, : len(block)]
        for number, sentence in enumerate(self._queries):
            out = self._logits[min(number, 1), : len(block)]
            torch.mm(block, sentence.T, out=out[:, : self._classes])
            if number:
                torch.maximum(logits, out, out=logits)
        return logits

    def _on_device(self, values: np.ndarray) -> Tensor:
        """Return (n, D) as they are stored: a GPU takes half the bytes, and widens them itself."""
        like = torch.from_numpy(np.empty(0, values.dtype))
        pinned = self._unit.is_cuda  # read into memory from which a GPU copies at once
        copied = torch.empty(values.shape, dtype=like.dtype, pin_memory=pinned)
        copied.numpy()[...] = values
        return to_device(copied, self._unit.device)

    def _above(
        self, logits: Tensor, chosen: Tensor, top: Tensor, group: Tensor, thresholds: Tensor
    ) -> list[ScreenedPairs]:
        """Return the pairs above thresholds of their columns, in some rows of a block.

        Args:
            logits: (rows of the block, columns). chosen: int64 (n,), some of these rows.
            top, group: (n,), the best logit of each, and its group.
            thresholds: (columns,), inf where a class is not asked for.
        """
        if not len(chosen):
            return []
        logits = _rows(logits, chosen, self._picked)
        table = logits.view(len(logits), self._slots, _GROUPS)
        members = table.gather(2, group.view(-1, 1, 1).expand(-1, self._slots, 1))[:, :, 0]
        column = members.argmax(dim=1) * _GROUPS + group
        odds, second, total = _split(logits, top, column, self._terms)
        hit = (odds >= thresholds[column]).nonzero()[:, 0]
        limits = _limits(thresholds)
        rows = _reached(logits, second, total, limits, self._terms)
        share = logits[rows] - total[rows, None]  # log p_k
        place, others = (share >= limits).nonzero(as_tuple=True)
        share = share[place, others]
        of_others = share - (-share.exp()).log1p()
        return [
            ScreenedPairs(hit, column[hit], odds[hit]),
            ScreenedPairs(rows[place], others, of_others),
        ]


def log_odds(logits: Tensor, columns: Tensor | None = None) -> Tensor:
    """Return (N, C): ``l_k - logsumexp_{j != k} l_j``, accurate also where p_k rounds to 1.

    Subtracting a term from the sum over all classes loses every digit where the term is the sum;
    so the best class is left out of the sum and added where it is among the others.

    Args:
        logits: (N, C). columns: int64 (T,), classes to return, (N, T); all by default.
    """
    best, where = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, where, -torch.inf)
    second = others.amax(dim=1, keepdim=True)
    terms = others.sub_(second).exp_()
    total = terms.sum(dim=1, keepdim=True)  # over all but the best, at least 1
    if columns is not None:
        logits, terms = logits[:, columns], terms[:, columns]
    rest = terms.neg_().add_(total).clamp_(min=0).mul_((second - best).exp())
    result = (logits - best).sub_(rest.log1p_())
    of_best = best - second - total.log()
    if columns is None:
        return result.scatter_(1, where, of_best)
    return torch.where(where == columns, of_best, result)


def _split(
    logits: Tensor, top: Tensor, column: Tensor, work: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (n,): log-odds of the best, the second best logit, and logsumexp over all columns.

    Args:
        logits: (n, columns); the best, ``top`` in ``column``, becomes -inf.
        work: overwritten, (n or more, columns).
    """
    logits.scatter_(1, column[:, None], -torch.inf)
    second = logits.amax(dim=1)
    # The best of a softmax is exp(0) / sum: its logarithm is had in one pass over the row.
    shares = torch.softmax(logits, dim=1, out=work[: len(logits)])
    others = second - shares.amax(dim=1).log()
    return top - others, second, torch.logaddexp(top, others)


def _limits(thresholds: Tensor) -> Tensor:
    """Return log p_k where log-odds are thresholds; inf stays."""
    limits = torch.nn.functional.logsigmoid(thresholds).clamp_(min=_LEAST_LIMIT)
    return limits.masked_fill_(thresholds == torch.inf, torch.inf)


def _reached(logits: Tensor, second: Tensor, total: Tensor, limits: Tensor, work: Tensor) -> Tensor:
    """Return the numbers of the rows where another class than the best reaches its limit.

    Hardly any row has a second class that could reach the least limit; the others are not looked
    at. A maximum of differences: any() over rows of booleans takes ten times as long on a CPU.

    Args:
        logits: (n, columns), -inf at the best. second: (n,), the best of these.
        total: (n,), logsumexp over all classes. limits: (columns,), of log p_k.
        work: overwritten, (n or more, columns).
    """
    some = (second - total >= limits.amin()).nonzero()[:, 0]
    if not len(some):
        return some
    return some[_rows(logits, some, work).sub_(limits).amax(dim=1) >= total[some]]


def _rows(values: Tensor, chosen: Tensor, out: Tensor) -> Tensor:
    """Return some rows in the memory of ``out``, float32 (n or more, columns)."""
    out = out[: len(chosen)]
    if values.dtype == out.dtype:
        return torch.index_select(values, 0, chosen, out=out)
    return out.copy_(values.index_select(0, chosen))


def _classes_of_columns(classes: int, labels: np.ndarray) -> np.ndarray:
    """Return int64 (C,): the class of each column; those asked for fill groups one by one."""
    order = np.concatenate([labels, np.setdiff1d(np.arange(classes), labels)])
    places = np.arange(-(-classes // _GROUPS) * _GROUPS).reshape(-1, _GROUPS).T.ravel()
    places = places[places < classes]  # by group, then by slot
    result = np.empty(classes, np.int64)
    result[places] = order
    return result
