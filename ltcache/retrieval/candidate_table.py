"""The table of a result: every candidate with its scores, what became of it, and who is near."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ltcache.cache import Cache
from ltcache.retrieval.columns import numbers_of, texts_of
from ltcache.retrieval.guards.verdicts import GuardEvidence, GuardVerdicts
from ltcache.retrieval.result import ACCEPTED, POOL, REJECTED
from ltcache.retrieval.scoring.pool import JoinedPool


def candidate_table(
    cache: Cache, pool: JoinedPool, evidence: GuardEvidence, verdicts: GuardVerdicts
) -> pa.Table:
    """Return the columns of :data:`ltcache.retrieval.result.COLUMNS`, and of several pools the
    name of each one's."""
    scores, names = evidence.scores, cache.classes.names
    train_rows, held_out_rows = evidence.train.rows[:, 0], evidence.held_out.rows[:, 0]
    keys = _keys(pool, scores.rows)
    train_keys = texts_of(cache, "key", train_rows)
    held_out_keys = texts_of(cache, "key", held_out_rows)
    columns = {
        "pool_row": scores.rows,
        "key": keys,
        "uri": _texts(pool, "uri", scores.rows),
        "label": scores.labels,
        "class_name": [names[label] for label in scores.labels],
        "p": scores.probability,
        "log_odds": scores.log_odds,
        "margin": scores.margin,
        "runner_up": scores.runner_up,
        "runner_up_name": [names[label] for label in scores.runner_up],
        "rank": scores.rank,
        "status": [REJECTED if reason else ACCEPTED for reason in verdicts.reasons],
        "reason": verdicts.reasons,
        "duplicate_of": _duplicate_of(verdicts, keys, train_keys, held_out_keys),
        "train_row": train_rows,
        "train_key": train_keys,
        "train_label": numbers_of(cache, "label", train_rows),
        "train_similarity": evidence.train.best,
        "held_out_key": held_out_keys,
        "held_out_similarity": evidence.held_out.best,
        "sha256": list(evidence.content),
        "width": _sizes(pool, "width", scores.rows),
        "height": _sizes(pool, "height", scores.rows),
        "source": list(evidence.source),
        **{name: _texts(pool, name, scores.rows) for name in ("url", "caption", "licence")},
    }
    if len(pool.pools) > 1:
        columns[POOL] = pool.names_of(scores.rows)
    return pa.table(columns)


def _texts(pool: JoinedPool, name: str, rows: np.ndarray) -> list[str]:
    return pool.collected(rows, lambda cache, own: texts_of(cache, name, own))


def _sizes(pool: JoinedPool, name: str, rows: np.ndarray) -> np.ndarray:
    found = pool.collected(rows, lambda cache, own: numbers_of(cache, name, own))
    return np.array(found, np.int64)


def _keys(pool: JoinedPool, rows: np.ndarray) -> list[str]:
    """Return the key of each row; with the name of its pool where another pool has the key, too."""
    keys, names = _texts(pool, "key", rows), pool.names_of(rows)
    pools = Counter(key for key, _ in {*zip(keys, names, strict=True)})
    return [
        f"{name}:{key}" if pools[key] > 1 else key for key, name in zip(keys, names, strict=True)
    ]


def _duplicate_of(
    verdicts: GuardVerdicts,
    keys: Sequence[str],
    train_keys: Sequence[str],
    held_out_keys: Sequence[str],
) -> list[str]:
    """Return the key of the image that each duplicate or leak repeats, else ""."""
    result = []
    for n, reason in enumerate(verdicts.reasons):
        if verdicts.twins[n] >= 0:
            result.append(keys[int(verdicts.twins[n])])
        elif reason in ("duplicate", "near-duplicate"):
            result.append(train_keys[n])
        elif reason in ("leak", "near-leak"):
            result.append(held_out_keys[n])
        else:
            result.append("")
    return result
