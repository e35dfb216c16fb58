"""Late ensembles: equal to plain numpy on rows matched by key, whatever their order."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.cache import PromptEmbeddings
from ltcache.ensemble import (
    Ensemble,
    EnsembleRecord,
    ZeroShot,
    ensemble,
    evaluate_ensemble,
    mixed_logits,
    weight_grid,
)
from ltcache.errors import FitError, IdentityError, UsageError
from ltcache.evaluate import evaluate
from ltcache.fit import fit_adapter
from ltcache.manifest import ClassList, Manifest
from ltcache.metrics import evaluate_logits, paired_bootstrap
from ltcache.runs.run import Run
from ltcache.zero_shot import zero_shot
from tests.fakes import FakeCache, long_tail_counts

COUNTS = long_tail_counts(6, 120, 6)
SPACES = ("probabilities", "logits")


class Texts(FakeCache):
    """A fake cache whose class texts name their tokenizer, as zero-shot wants it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.encoder = {**self.encoder, "tokenizer": "k0"}

    def prompts(self, name: str | None = None) -> PromptEmbeddings:
        """Return the class texts with the tokenizer in their identity."""
        found = super().prompts(name)
        identity = {**found.identity, "tokenizer": "k0"}
        return PromptEmbeddings(
            found.name, found.texts, found.sentences, found.count, found.mean, identity
        )


def _other(seed: int = 1, order: np.ndarray | None = None, **options: Any) -> Texts:
    """Return a cache of the same rows by another encoder, its rows in another order."""
    cache = Texts(COUNTS, seed=seed, dim=10, noise=1.2, unit=2, **options)
    cache.encoder = {**cache.encoder, "towers": {"image": f"i{seed}", "text": f"t{seed}"}}
    rows = len(cache.manifest.rows)
    return _taken(cache, np.random.default_rng(7).permutation(rows) if order is None else order)


def _taken(cache: Texts, order: np.ndarray) -> Texts:
    """Leave a cache only some rows, in their order."""
    table = cache.manifest.rows.take(order)
    table = table.set_column(0, "row_id", [np.arange(len(order))])
    cache.manifest = Manifest("fake", table, cache.classes)
    cache._features = {name: values[order] for name, values in cache._features.items()}
    return cache


def _with(cache: Texts, column: str, values: list[Any]) -> None:
    place = cache.manifest.rows.column_names.index(column)
    table = cache.manifest.rows.set_column(place, column, [values])
    cache.manifest = Manifest("fake", table, cache.classes)


def _fit(cache: Texts, method: str = "ncm", **options: Any) -> Run:
    return fit_adapter(cache, method, **options)  # type: ignore[arg-type]


def _mix(members: Any, caches: Any = (), **options: Any) -> Ensemble:
    return ensemble(members, caches=caches, **options)


def _scores(run: Run, cache: Texts, split: str) -> dict[str, np.ndarray]:
    """Return key -> logits, row by row."""
    keys = cache.column("key", split)
    assert keys is not None
    values = run.logits(cache.features(split, run.record.field))
    return dict(zip(keys.tolist(), values.astype(np.float64), strict=True))


def _plain(parts: list[np.ndarray], weights: tuple[float, ...], space: str) -> np.ndarray:
    """Return the mix as its formula says it."""
    if space == "logits":
        return sum(w * z for w, z in zip(weights, parts, strict=True))  # type: ignore[return-value]
    exps = [np.exp(z - z.max(1, keepdims=True)) for z in parts]
    return np.log(
        sum(w * e / e.sum(1, keepdims=True) for w, e in zip(weights, exps, strict=True))  # type: ignore[arg-type]
    )


def _chosen(parts: list[np.ndarray], labels: np.ndarray, space: str) -> tuple[float, ...]:
    """Return the weights of 21 that are best by mean accuracy per class, then by NLL."""
    best: list[tuple[float, float, tuple[float, ...]]] = []
    for n in range(21):
        weights = (n / 20, (20 - n) / 20)
        with np.errstate(divide="ignore"):
            z = _plain(parts, weights, space)
        hit = z.argmax(1) == labels
        mean = np.mean([hit[labels == c].mean() for c in np.unique(labels)])
        p = np.exp(z - z.max(1, keepdims=True))
        nll = -np.log((p / p.sum(1, keepdims=True))[np.arange(len(z)), labels]).mean()
        best.append((round(float(mean), 12), -float(nll), weights))
    return max(best)[2]


@pytest.mark.parametrize("space", SPACES)
def test_two_encoders_equal_plain_numpy_on_rows_matched_by_key(space: str) -> None:
    one = Texts(COUNTS, noise=1.2, unit=2)
    rows = len(one.manifest.rows)
    order = np.random.default_rng(3).permutation(rows)
    two = _other(order=order[order % 7 != 3])  # every seventh row is missing
    runs = [_fit(one), _fit(two, "gda")]
    found = _mix(runs, (one, two), space=space)
    parts, labels = {}, {}
    for split in ("val", "test"):
        scores = [_scores(run, cache, split) for run, cache in zip(runs, (one, two), strict=True)]
        keys = [key for key in scores[0] if key in scores[1]]
        assert len(keys) < len(scores[0])
        truth = dict(zip(one.column("key", split), one.labels(split), strict=True))  # type: ignore[arg-type]
        labels[split] = np.array([truth[key] for key in keys])
        parts[split] = [np.stack([by_key[key] for key in keys]) for by_key in scores]
        assert found.record.rows[split].rows == len(keys)
        gap = found.record.rows[split].missing
        assert [g.rows for g in gap.values()] == [len(scores[0]) - len(keys)]
        assert all(g.in_another_split == 0 for g in gap.values())
    weights = _chosen(parts["val"], labels["val"], space)
    assert tuple(found.weights.values()) == pytest.approx(weights) and 0 < weights[0] < 1
    expected = _plain(parts["test"], weights, space)
    metrics = found.metrics["test"]
    plain = evaluate_logits(expected, labels["test"], COUNTS, bootstrap=0)
    assert metrics.per_class == plain.per_class and metrics.few == plain.few
    assert metrics.nll == pytest.approx(plain.nll, abs=1e-6)
    assert metrics.num_units < metrics.num_rows
    assert found.record.encoders == 2
    assert "different encoders, by design" in found.record.encoders_note
    assert found.record.tuned_on == {"weights": "val"} and len(found.record.tried) == 21


def test_order_and_position_do_not_matter() -> None:
    one, two = Texts(COUNTS, noise=1.2), _other()
    straight = _other(order=np.arange(len(one.manifest.rows)))
    run, other = _fit(one), _fit(straight)
    shuffled = _mix([run, other], (one, two), weights=(1, 1))
    straight_mix = _mix([run, other], (one, straight), weights=(1, 1))
    assert shuffled.metrics == straight_mix.metrics
    assert shuffled.metrics["test"].mean_per_class > 0.4  # by position it would be chance


@pytest.mark.parametrize("space", SPACES)
def test_a_weight_of_one_is_the_member_itself(space: str) -> None:
    cache = Texts(COUNTS, noise=1.2)
    run = _fit(cache)
    own = evaluate(run, cache)  # type: ignore[arg-type]
    texts = zero_shot(cache).metrics  # type: ignore[arg-type]
    for weights, expected in (((1, 0), own), ((0, 3), texts)):
        found = _mix([run, "zero-shot"], (cache,), weights=weights, space=space)
        mixed = found.metrics["test"]
        assert mixed.per_class == expected.per_class and mixed.intervals == expected.intervals
        assert mixed.nll == pytest.approx(expected.nll)
        assert found.record.tuned_on == {} and list(found.metrics) == ["test"]
        by = found.member_metrics
        assert next(iter(by.values()))["test"].per_class == own.per_class
        assert by["zero-shot"]["test"].per_class == texts.per_class


def test_weights_are_scaled_and_the_grid_holds_its_corners() -> None:
    cache = Texts(COUNTS, noise=1.2)
    run = _fit(cache)
    found = [_mix([run, "zero-shot"], (cache,), weights=w) for w in ((1, 3), (0.25, 0.75))]
    assert found[0].record.key == found[1].record.key
    assert list(found[0].weights.values()) == [0.25, 0.75]
    for members, size in ((2, 21), (3, 231), (4, 286), (5, 1001), (6, 252)):
        grid = weight_grid(members)
        assert len(set(grid)) == size
        assert np.allclose(np.sum(grid, axis=1), 1) and np.min(grid) == 0
        assert all(tuple(row) in grid for row in np.eye(members).tolist())
    with pytest.raises(UsageError, match="--weights"):
        weight_grid(60)


def test_equal_accuracy_is_decided_by_likelihood() -> None:
    cache = Texts(COUNTS, noise=0.01)  # every weight is right everywhere
    found = _mix([_fit(cache), "zero-shot"], (cache,))
    tried = found.record.tried
    assert {point.mean_per_class for point in tried} == {1.0}
    best = min(tried, key=lambda point: point.nll)
    assert list(found.weights.values()) == list(best.weights)


def test_three_members_and_the_difference_to_each() -> None:
    one, two = Texts(COUNTS, noise=1.2, unit=2), _other()
    runs = [_fit(one), _fit(two)]
    found = _mix([*runs, ZeroShot(one)], (one, two))  # type: ignore[arg-type]
    assert len(found.record.tried) == 231
    assert set(found.differences) == set(found.member_metrics) == set(found.weights)
    best = found.best_member
    for name, splits in found.member_metrics.items():
        gain = found.metrics["test"].mean_per_class - splits["test"].mean_per_class
        assert found.differences[name].difference == pytest.approx(gain)
        assert splits["test"].mean_per_class <= found.member_metrics[best]["test"].mean_per_class
    scores = [_scores(runs[0], one, "test"), _scores(runs[1], two, "test")]
    parts = [np.stack([by_key[key] for key in scores[0]]) for by_key in scores]
    parts.append(zero_shot(one).logits.astype(np.float64))  # type: ignore[arg-type]
    labels, weights = one.labels("test"), tuple(found.weights.values())
    right = mixed_logits(parts, weights, "probabilities").argmax(1) == labels
    expected = paired_bootstrap(
        parts[2].argmax(1) == labels, right, labels, one.column("unit", "test")
    )
    assert found.differences["zero-shot"] == expected


def test_a_row_that_trained_one_member_scores_no_other() -> None:
    one, two = Texts(COUNTS, noise=1.2), _other()
    split = two.manifest.rows["split"].to_pylist()
    moved = [i for i, name in enumerate(split) if name == "test"][:5]
    _with(two, "split", ["train" if i in moved else name for i, name in enumerate(split)])
    found = _mix([_fit(one), _fit(two)], (one, two), weights=(1, 1))
    missing = list(found.record.rows["test"].missing.values())
    assert [(gap.rows, gap.in_another_split) for gap in missing] == [(5, 5)]
    assert len(missing[0].first) == 5
    assert found.metrics["test"].num_rows == len(one.labels("test")) - 5


def test_a_label_that_one_cache_lacks_is_taken_from_the_other() -> None:
    one, two = Texts(COUNTS, noise=1.2), _other()
    runs = [_fit(one), _fit(two)]
    whole = _mix(runs, (one, two), weights=(1, 1))
    labels = two.manifest.rows["label"].to_pylist()
    _with(two, "label", [-1 if i % 3 else label for i, label in enumerate(labels)])
    assert _mix(runs, (one, two), weights=(1, 1)).metrics == whole.metrics
    _with(one, "label", [-1] * len(labels))
    part = _mix(runs, (one, two), weights=(1, 1)).record.rows["test"]
    assert part.unlabelled + part.rows == whole.metrics["test"].num_rows


def test_other_bytes_under_one_key_are_told() -> None:
    one, two = Texts(COUNTS, noise=1.2), _other()
    for cache in (one, two):
        keys = cache.manifest.rows["key"].to_pylist()
        table = cache.manifest.rows.append_column("sha256", [keys])
        cache.manifest = Manifest("fake", table, cache.classes)
    members = [_fit(one), _fit(two)]
    assert _mix(members, (one, two)).record.rows["test"].content_differs == 0
    keys = two.manifest.rows["key"].to_pylist()
    _with(two, "sha256", [f"other {key}" for key in keys])
    with pytest.warns(UserWarning, match="not the same file"):
        found = _mix(members, (one, two), weights=(1, 1))
    test = found.record.rows["test"]
    assert test.content_differs == test.rows


def test_labels_and_classes_must_agree() -> None:
    one, two = Texts(COUNTS, noise=1.2), _other()
    runs = [_fit(one), _fit(two)]
    labels = two.manifest.rows["label"].to_pylist()
    _with(two, "label", [(label + 1) % len(COUNTS) for label in labels])
    with pytest.raises(FitError, match=r"labels of \d+ rows differ .* first of 'k\d+': \d in"):
        _mix(runs, (one, two))
    two = _other()
    names = tuple(f"kind {c}" for c in range(len(COUNTS)))
    two.classes = ClassList(names, (None,) * len(names))
    two.manifest = Manifest("fake", two.manifest.rows, two.classes)
    with pytest.raises(IdentityError, match="the classes differs") as info:
        _mix([runs[0], _fit(two)], (one, two))
    assert "label 0: 'class 0' expected, 'kind 0' found" in str(info.value)
    assert info.value.exit_status == 4


def test_a_cache_of_another_encoder_than_its_run_is_refused() -> None:
    one, two = Texts(COUNTS, noise=1.2), _other()
    runs = [_fit(one), _fit(two)]
    with pytest.raises(IdentityError, match=r"towers\.image"):
        _mix(runs, (two, one))
    again = Texts(COUNTS, noise=1.2)
    again.encoder = {**again.encoder, "patch": 1}
    found = _mix(runs, (again, two), weights=(1, 1), allow_stale=["encoder"])
    first = found.record.members[0]
    assert first.stale == ("encoder.patch",)
    assert found.metrics["test"].stale == (f"{first.name}: encoder.patch",)
    one.encoder = {**one.encoder, "tokenizer": "k1"}
    with pytest.raises(IdentityError, match="tokenizer"):
        _mix([runs[1], ZeroShot(one)], (two,))  # type: ignore[arg-type]


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    cache, other = Texts(COUNTS, noise=1.2), _other()
    run = _fit(cache)

    def refused(match: str, members: Any, caches: Any = (cache,), **options: Any) -> None:
        with pytest.raises(UsageError, match=match):
            _mix(members, caches, **options)

    pair = [run, "zero-shot"]
    refused("two members or more", [run])
    refused("are one member", [run, run])
    refused("'odds' is none of", pair, space="odds")
    refused("3 weights for 2", pair, weights=(1, 1, 1))
    for bad in ((0, 0), (-1, 2), (float("nan"), 1)):
        refused("at least 0", pair, weights=bad)
    refused("2 caches for 1 runs", pair, (cache, other))
    refused("does not say which cache", pair, ())
    refused("no split 'dev'", pair, split="dev")
    refused("give --weights", *_unvalidated())
    keys = [f"x{key}" for key in other.manifest.rows["key"].to_pylist()]
    _with(other, "key", keys)
    refused("no labelled row of 'val' has the same key", [run, _fit(other)], (cache, other))
    cache.prompt_names = ()
    refused("zero-shot:CACHE", pair)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    refused("is not an ensemble", pair, out=tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def _unvalidated() -> tuple[list[Any], tuple[Texts]]:
    cache = Texts(COUNTS, splits=("test",))
    return [_fit(cache), "zero-shot"], (cache,)


def test_the_directory_says_everything(tmp_path: Path) -> None:
    one, two = Texts(COUNTS, noise=1.2, unit=2), _other()
    out = tmp_path / "both"
    found = _mix([_fit(one), _fit(two, "gda"), "zero-shot"], (one, two), out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["both"]
    assert {p.name for p in out.iterdir()} == {"ensemble.json", "metrics.json", "per_class.csv"}
    record = json.loads((out / "ensemble.json").read_text())
    assert [member["kind"] for member in record["members"]] == ["run", "run", "zero-shot"]
    for member, cache in zip(record["members"], (one, two, one), strict=True):
        assert len(member["key"]) == 64
        assert member["identities"]["encoder"] == cache.encoder
    assert record["aligned_by"] == "key" and record["transductive"] is False
    assert record["space"] == "probabilities" and record["tuned_on"] == {"weights": "val"}
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["splits"]["test"] == json.loads(json.dumps(found.metrics["test"].to_dict()))
    assert set(numbers["members"]) == set(numbers["weights"]) == set(numbers["differences"])
    with open(out / "per_class.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["train_rows"]) for row in rows] == COUNTS.tolist()
    shown = [float(row["test_accuracy"]) for row in rows]
    assert shown == pytest.approx(list(found.metrics["test"].per_class), abs=1e-5)  # type: ignore[arg-type]
    again = _mix([_fit(one), _fit(two, "gda"), "zero-shot"], (one, two), out=out)
    assert EnsembleRecord.from_dict(record) == found.record == again.record
    assert again.metrics == found.metrics
    with pytest.raises(UsageError, match="holds another ensemble"):
        _mix([_fit(one), "zero-shot"], (one,), out=out)
    changed = _mix([_fit(one), "zero-shot"], (one,), out=out, overwrite=True)
    assert json.loads((out / "ensemble.json").read_text())["key"] == changed.record.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "ensemble.json is of format 2, .* upgrade"),
        ({"bias": 0}, "ensemble.json has bias, .* a later version wrote it"),
        ({"members": [{"kind": "run"}]}, "ensemble.json, members lacks field, identities, key"),
        ({"rows": {"test": {}}}, "left_out"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    cache = Texts(COUNTS, noise=1.2)
    _mix([_fit(cache), "zero-shot"], (cache,), out=tmp_path / "e", weights=(1, 1))
    place = tmp_path / "e" / "ensemble.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(FitError, match=message):
        evaluate_ensemble(tmp_path / "e")


def test_extreme_scores_stay_finite() -> None:
    far = np.array([[2000.0, 0.0], [-2000.0, 0.0]])
    near = np.array([[0.0, 1.0], [1.0, 0.0]])
    for weights, space in itertools.product(((1, 0), (0.5, 0.5), (0, 1)), SPACES):
        assert np.isfinite(mixed_logits([far, near], weights, space)).all()
    assert np.allclose(mixed_logits([far, near], (0.5, 0.5), "probabilities")[0], np.log(
        [0.5 + 0.5 / (1 + np.e), 0.5 * np.e / (1 + np.e)]
    ))  # fmt: skip


def test_imports_that_name_no_images_are_matched_by_number_with_a_warning() -> None:
    one, two = Texts(COUNTS, noise=1.2), _other(order=np.arange(len(Texts(COUNTS).manifest.rows)))
    two.path = Path("other-cache")
    for cache in (one, two):
        rows = cache.manifest.rows
        named = zip(rows["split"].to_pylist(), range(len(rows)), strict=True)
        _with(cache, "key", [f"{split}/{row:08d}" for split, row in named])
    runs = [_fit(one), _fit(two)]
    _mix(runs, (one, two), weights=(1, 1))
    one.imported = two.imported = True
    with pytest.warns(UserWarning, match="matched by their number"):
        _mix(runs, (one, two), weights=(1, 1))
