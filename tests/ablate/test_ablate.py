"""Runs and tables: equal to single fits, resumed, kept apart, with failures and intervals."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.ablate import Ablation, ablate, settings_of
from ltcache.ablate.parallel import LostItem, run_groups
from ltcache.ablate.runs import RunOptions, cache_key, setting_key
from ltcache.errors import FitError, IdentityError, UsageError
from ltcache.fit import fit_adapter
from ltcache.methods import METHODS, override
from ltcache.metrics import GroupScheme, paired_bootstrap
from ltcache.report import comparison_table, report
from ltcache.runs import LabelledLogits, Run, open_run
from tests.cli.small_caches import write_cache
from tests.commands import StartedCommand
from tests.fakes import FakeCache, extra_of, long_tail_counts

COUNTS = long_tail_counts(8, 120, 6)
SHORT = {"optimisation.epochs": 3}
FILES = {
    "accuracy_by_frequency.png", "accuracy_by_frequency.svg", "results.csv", "results.json",
    "results.md", "results.tex", "runs",
}  # fmt: skip


def _right(run: Run, cache: Any) -> np.ndarray:
    return LabelledLogits.of(run, cache, "test").right


def _logits(run: Run, cache: Any) -> np.ndarray:
    return run.logits(cache.features("test", run.record.field))


def _cache(**options: Any) -> Any:
    return FakeCache(COUNTS, unit=4, noise=0.8, **options)


def _ablate(cache: Any, methods: Sequence[Any], out: Path, **options: Any) -> Ablation:
    return ablate(cache, methods, out, **{"seeds": 2, "overrides": SHORT, "workers": 1, **options})


def _entry(found: Ablation, name: str) -> dict[str, Any]:
    entries = {entry["name"]: entry for entry in found.comparison["entries"]}
    return dict(entries[name])


def test_an_ablation_equals_single_fits_and_its_own_arithmetic(tmp_path: Path, drawn: None) -> None:
    cache = _cache()
    found = _ablate(cache, ["ce", "dr", "posthoc-la"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert all(path.stat().st_size for path in (tmp_path / "out").iterdir())
    alone = [fit_adapter(cache, "dr", seed=s, overrides=SHORT) for s in (0, 1)]
    entry = _entry(found, "dr")
    for path, run in zip(entry["runs"], alone, strict=True):
        there = open_run(tmp_path / "out" / path)
        assert there.metrics == run.metrics and there.history == run.history
    values = [run.metrics["test"].few for run in alone]
    few = entry["scores"]["test"]["few"]
    assert few["values"] == values and few["mean"] == pytest.approx(np.mean(values))
    assert few["sd"] == pytest.approx(np.std(values, ddof=1))
    base = [fit_adapter(cache, "ce", seed=s, overrides=SHORT) for s in (0, 1)]
    pair = paired_bootstrap(
        *(np.stack([_right(r, cache) for r in runs]) for runs in (base, alone)),
        cache.labels("test"),
        cache.column("unit", "test"),
        groups=GroupScheme().assign(COUNTS),
    )
    assert entry["difference"]["test"] == pair.to_dict()
    assert _entry(found, "ce")["difference"]["test"] is None
    assert found.comparison["baseline"] == "ce"


def test_ranks_are_means_over_seeds(tmp_path: Path) -> None:
    found = _ablate(_cache(), ["ce", "crt", "ncm"], tmp_path)
    scores = np.array([e["scores"]["test"]["mean_per_class"]["values"]
                       for e in found.comparison["entries"]])  # fmt: skip
    ranks = np.array([[1 + (scores[:, s] > v).sum() + ((scores[:, s] == v).sum() - 1) / 2
                       for s, v in enumerate(line)] for line in scores])  # fmt: skip
    assert [e["rank"]["test"] for e in found.comparison["entries"]] == ranks.mean(axis=1).tolist()


def test_a_first_stage_is_fitted_once_and_its_time_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltcache.fit import stages

    trained: list[str] = []
    train = stages.train_head

    def counted(head: Any, objective: Any, stage: Any, *rest: Any) -> Any:
        trained.append(stage.sampler)
        time.sleep(0.05)
        return train(head, objective, stage, *rest)

    monkeypatch.setattr(stages, "train_head", counted)
    found = _ablate(_cache(), ["ce", "posthoc-la", "tau-norm"], tmp_path, seeds=1)
    assert len(trained) == 1
    for entry in found.comparison["entries"]:
        assert entry["cost"]["head_seconds"] > 0.05


def test_what_is_there_is_taken_and_a_longer_list_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = _cache()
    first = _ablate(cache, ["ce"], tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("head.safetensors")}
    again = _ablate(cache, ["ce", "crt"], tmp_path, seeds=3)
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert len(list(tmp_path.rglob("run.json"))) == 6
    assert (
        _entry(again, "ce")["scores"]["test"]["few"]["values"][:2]
        == (_entry(first, "ce")["scores"]["test"]["few"]["values"])
    )
    broken = tmp_path / _entry(first, "ce")["runs"][0] / "head.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(b"x")
    _ablate(cache, ["ce"], tmp_path)
    assert broken.read_bytes() == whole


def test_a_changed_cache_or_setting_gets_other_runs(tmp_path: Path) -> None:
    cache = _cache()
    _ablate(cache, ["ce"], tmp_path, seeds=1)
    _ablate(cache, ["ce"], tmp_path, seeds=1, overrides={"optimisation.epochs": 2})
    assert len(list(tmp_path.rglob("run.json"))) == 2
    cache._features["pooled"] = cache._features["pooled"] + 1
    _ablate(cache, ["ce"], tmp_path, seeds=1)
    assert len(list(tmp_path.rglob("run.json"))) == 3
    _ablate(_cache(seed=1), ["ce"], tmp_path, seeds=1)
    assert len(list(tmp_path.rglob("run.json"))) == 4


def test_one_failure_does_not_lose_the_others(tmp_path: Path) -> None:
    wild = override(METHODS["ce"], {"optimisation.optimiser": "sgd", "optimisation.lr": 1e38})
    cache = _cache()
    found = _ablate(cache, ["crt", wild], tmp_path)
    assert [entry["name"] for entry in found.comparison["entries"]] == ["crt"]
    assert [(lost["name"], lost["seed"]) for lost in found.failures] == [("ce", 0), ("ce", 1)]
    assert all("lower optimisation.lr" in lost["reason"] for lost in found.failures)
    assert any("baseline ce has no finished run" in note for note in found.comparison["notes"])
    assert "failed: ce, seed 1" in (tmp_path / "results.md").read_text()
    with pytest.raises(FitError, match="every run failed"):
        _ablate(cache, [wild], tmp_path)


def test_an_ablation_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    found = _ablate(_cache(), ["ce", "ncm"], tmp_path / "<out>", seeds=1)
    assert repr(found) == f"Ablation(2 lines on test, at {tmp_path / '<out>'})"
    html = found._repr_html_()
    assert "&lt;out&gt;" in html and "<out>" not in html
    assert html.count("<tr>") == 3 and "<th>mean/class</th>" in html and "<td>ncm</td>" in html
    axes = found.plot().axes[0]
    assert [line.get_label() for line in axes.get_lines()] == ["ce", "ncm"]
    assert "test split" in axes.get_ylabel()


@pytest.mark.parametrize("tuned", [False, True])
def test_a_view_that_the_cache_lacks_fails_its_own_runs_alone(tmp_path: Path, tuned: bool) -> None:
    found = _ablate(_cache(), ["ce", "paco", "tade"], tmp_path, seeds=1, tune=tuned, trials=2)
    assert [entry["name"] for entry in found.comparison["entries"]] == ["ce"]
    assert [lost["name"] for lost in found.failures] == ["paco", "tade"]
    assert all("no view 'rrc:2'" in lost["reason"] for lost in found.failures)


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    cache = _cache()
    methods = ["ce", "crt", "ncm", "posthoc-la"]
    seen: list[Any] = []
    one = _ablate(cache, methods, tmp_path / "one", progress=seen.append)
    two = _ablate(cache, methods, tmp_path / "two", workers=2)
    for a, b in zip(one.comparison["entries"], two.comparison["entries"], strict=True):
        assert a["scores"] == b["scores"] and a["difference"] == b["difference"]
    assert [p.done for p in seen] == list(range(1, 9)) and {p.total for p in seen} == {8}


def test_runs_trained_together_are_single_fits_up_to_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltcache.fit import many

    sizes: list[int] = []
    train_together = many.train_together

    def counted(trainings: Any, stops: Any) -> Any:
        sizes.append(len(trainings))
        return train_together(trainings, stops)

    monkeypatch.setattr(many, "train_together", counted)
    methods = ["ce", "logit-adjustment", "dr", "ncm"]
    one = _ablate(_cache(), methods, tmp_path / "one")
    two = _ablate(_cache(), methods, tmp_path / "two", together=True)
    assert sizes[0] == 4  # two losses, two seeds; dr begins as ce does
    for a, b in zip(one.comparison["entries"], two.comparison["entries"], strict=True):
        nll = [entry["scores"]["test"]["nll"]["values"] for entry in (a, b)]
        assert nll[0] == pytest.approx(nll[1], rel=1e-4)


class _Killer:
    """Work of which one item ends its process."""

    def read(self, items: Sequence[int]) -> None:
        pass

    def begin(self, group: Sequence[int]) -> dict[str, Any]:
        return {}

    def __call__(self, item: int, memo: dict[str, Any]) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def test_a_process_that_dies_costs_only_what_it_had() -> None:
    found = list(run_groups([[1, 2], [3, 4], [5], [6]], _Killer(), 2))
    assert sorted(r for r in found if isinstance(r, int)) == [1, 2, 5, 6]
    lost = [r for r in found if isinstance(r, LostItem)]
    assert [r.item for r in lost] == [3, 4] and "exit status -9" in lost[0].reason


def three_methods(out: str) -> None:
    """Compare three methods over three seeds."""
    _ablate(_cache(), ["ce", "crt", "ncm"], Path(out), seeds=3)


def test_a_killed_ablation_goes_on_and_ends_in_the_same_table(tmp_path: Path) -> None:
    process = StartedCommand(three_methods, str(tmp_path / "killed"))
    while not list((tmp_path / "killed").rglob("run.json")) and process.running:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.finish()
    for out in ("killed", "whole"):
        three_methods(str(tmp_path / out))
    one, two = (
        json.loads((tmp_path / o / "results.json").read_text()) for o in ("killed", "whole")
    )
    for a, b in zip(one["entries"], two["entries"], strict=True):
        assert a["scores"] == b["scores"] and a["difference"] == b["difference"]


@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_features_are_read_once_for_all_runs_and_processes(
    workers: int, tune: bool, tmp_path: Path
) -> None:
    cache, log = _cache(), tmp_path / "reads"
    features = cache.features

    def read(*arguments: Any, **named: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{arguments[0]}\n")
        return features(*arguments, **named)

    cache.features = read
    _ablate(cache, ["ce", "crt", "ncm"], tmp_path / "out", workers=workers, tune=tune, trials=2)
    assert sorted(log.read_text().split()) == ["test", "train", "val"]


def test_tuning_reads_no_test_row_and_is_recorded(tmp_path: Path) -> None:
    grid = {"loss.tau": ["0.5", "1.5"], "optimisation.lr": [1e-3, 1e-2]}
    found = _ablate(_cache(), ["ce", "logit-adjustment", "ncm"], tmp_path, grid=grid, tune=True,
                    trials=3)  # fmt: skip
    assert [e["name"] for e in found.comparison["entries"]] == ["ce", "logit-adjustment", "ncm"]
    entry = _entry(found, "logit-adjustment")
    assert set(entry["chosen"]) == {"loss.tau", "optimisation.lr"} and entry["trials"] == 3
    assert entry["tuned_on"] == dict.fromkeys(("epoch", "loss.tau", "optimisation.lr"), "val")
    run = open_run(tmp_path / entry["runs"][1])
    assert run.record.tuning["tuner"] == "grid" and len(run.record.tuning["tried"]) == 3
    assert run.method.stages[-1].loss_options["tau"] == entry["chosen"]["loss.tau"]  # type: ignore[union-attr]
    assert _entry(found, "ncm")["trials"] == 1
    kept = sorted(tmp_path.glob("tuning/*.json"))
    times = [path.stat().st_mtime_ns for path in kept]
    _ablate(_cache(), ["ce", "logit-adjustment", "ncm"], tmp_path, grid=grid, tune=True, trials=3)
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_wrong_requests_are_refused_before_any_run(tmp_path: Path) -> None:
    for options, match in (
        ({"split": "train"}, "choose val or test"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"baseline": "crt"}, "baseline 'crt' is not compared"),
        ({"tune": True, "tuner": "guess"}, "unknown tuner"),
        ({"tune": True, "grid": {"loss.tua": [1]}}, "no method has a setting"),
    ):
        with pytest.raises(UsageError, match=match):
            _ablate(_cache(), ["ce"], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cache.json", "run.json", "photo.png"])
def test_nothing_is_written_among_the_files_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[]")
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(UsageError, match=f"{place.name} exists and is no ablation"):
            ablate(FakeCache(COUNTS), ["ce"], place, seeds=1)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_table_of_finished_runs_says_what_it_said_when_they_were_fitted(tmp_path: Path) -> None:
    methods = ["tau-norm", "logit-adjustment"]
    tables = [
        comparison_table(_ablate(_cache(), methods, tmp_path, tune=True, trials=2).comparison)
        for _ in range(2)
    ]
    assert tables[0] == tables[1]
    assert "chosen on val: epoch, loss.tau, optimisation.lr, optimisation.weight_decay" in tables[0]


def test_the_validation_split_can_be_the_tables(tmp_path: Path) -> None:
    found = _ablate(_cache(), ["ce", "crt"], tmp_path, split="val", baseline="crt")
    table = comparison_table(found.comparison, "val")
    assert "val split, 160 images of 40 units" in table and "vs crt" in table
    assert "chosen on val: epoch" in table


def test_a_tuned_table_counts_the_classes_that_had_no_part_in_the_choice(tmp_path: Path) -> None:
    for val, told in (((3, 3, 0, 0), True), ((3, 3, 1, 1), False)):
        rows = {"train": (20, 10, 5, 2), "val": val, "test": (4, 4, 4, 4)}
        cache = write_cache(tmp_path / f"cache-{told}", rows)
        found = _ablate(cache, ["ce"], tmp_path / f"out-{told}", tune=True, trials=2)
        assert _entry(found, "ce")["unseen_classes"] == (2 if told else 0)
        line = "no part in settings: 2 classes without a row"
        assert (line in comparison_table(found.comparison, "test")) == told


def test_a_report_over_runs_equals_the_ablations_table(tmp_path: Path) -> None:
    found = _ablate(_cache(), ["ce", "crt"], tmp_path / "out")
    again = report([tmp_path / "out"])
    for a, b in zip(found.comparison["entries"], again["entries"], strict=True):
        for part in ("name", "seeds", "scores", "rank", "per_class", "tuned_on", "cost"):
            assert a[part] == b[part], part
    assert any("without the cache" in note for note in again["notes"])  # a cache in memory alone
    runs = report([tmp_path / "out" / "runs"], baseline="crt")
    assert [entry["name"] for entry in runs["entries"]] == ["ce", "crt"]
    assert runs["baseline"] == "crt"
    with pytest.raises(UsageError, match="no runs here"):
        report([tmp_path / "nothing"])


def test_runs_on_a_view_that_is_named_are_trained_together_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltcache.fit import stages

    cache = _cache(views={"rrc:4": 0.5})
    one = _ablate(cache, ["ce"], tmp_path / "one", together=False, view="rrc:4")
    with monkeypatch.context() as patch:  # whatever is trained alone fails
        patch.setattr(stages, "train_head", None)
        two = _ablate(cache, ["ce"], tmp_path / "two", together=True, view="rrc:4")
    assert not two.failures
    runs = [[open_run(f.out / path) for path in _entry(f, "ce")["runs"]] for f in (one, two)]
    for alone, shared in zip(*runs, strict=True):
        np.testing.assert_allclose(_logits(shared, cache), _logits(alone, cache), atol=1e-4)


def test_a_changed_view_that_is_named_gets_runs_of_its_own() -> None:
    (setting,), _ = settings_of(["ce"], overrides=SHORT)
    options = RunOptions({"view": "rrc:4"})
    before, after = _cache(views={"rrc:4": 0.5}), _cache(views={"rrc:4": 0.5})
    identities = after.identities
    after.identities = lambda view, texts=None: {
        **identities(view, texts), **({"seed": 1} if view == "rrc:4" else {})
    }  # fmt: skip
    assert setting_key(before, setting, options) != setting_key(after, setting, options)


@pytest.mark.parametrize("together", [False, True])
def test_extra_rows_train_in_every_run(tmp_path: Path, together: bool) -> None:
    cache = _cache()
    extra = extra_of(cache, weight=0.5)
    methods = ["ce", "logit-adjustment"]
    found = _ablate(cache, methods, tmp_path / "out", extra=extra, together=together, seeds=1)
    for entry in found.comparison["entries"]:
        run = open_run(tmp_path / "out" / entry["runs"][0])
        alone = fit_adapter(cache, entry["name"], overrides=SHORT, extra=extra)
        assert run.record.extra == extra.to_dict()
        assert np.allclose(_logits(run, cache), _logits(alone, cache), atol=1e-4)
    assert found.comparison["extra"] == extra.to_dict()
    said = "every run trains on 20 extra images (retrieval r0, weight 10 in all) as well"
    assert said in found.comparison["notes"]


def test_an_ablation_with_other_extra_rows_is_refused(tmp_path: Path) -> None:
    cache = _cache()
    extra = extra_of(cache)
    _ablate(cache, ["ncm"], tmp_path, extra=extra, seeds=1, overrides={})
    before = (tmp_path / "results.json").read_bytes()
    for other in (None, extra_of(cache, weight=0.5)):
        with pytest.raises(UsageError, match="20 extra images .* choose another --out"):
            _ablate(cache, ["ncm"], tmp_path, extra=other, seeds=1, overrides={})
    assert (tmp_path / "results.json").read_bytes() == before
    again = _ablate(cache, ["ncm", "knn"], tmp_path, extra=extra, seeds=1, overrides={})
    assert len(list((tmp_path / "runs").iterdir())) == 2 and not again.failures
    theirs = {**cache.identities("center"), "classes": "others"}
    with pytest.raises(IdentityError, match="classes"):
        _ablate(cache, ["ce"], tmp_path / "b", extra=extra_of(cache, identities=theirs))


def test_prompts_that_no_method_uses_are_said_once(tmp_path: Path) -> None:
    options: dict[str, Any] = {"prompts": "default", "overrides": {}, "seeds": 1}
    found = _ablate(_cache(), ["ncm", "knn"], tmp_path / "a", **options)
    said = "--prompts default had no effect: no class texts are used by ncm, knn"
    assert found.comparison["notes"] == [said]
    used = _ablate(_cache(), ["ncm", "gda"], tmp_path / "b", **options)
    assert used.comparison["notes"] == []


def test_tuning_tries_views_and_a_new_view_is_a_new_search(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tune": True, "overrides": {}, "seeds": 1}
    found = _ablate(_cache(), ["ncm"], tmp_path, **options)
    assert _entry(found, "ncm")["runs"] and len(list((tmp_path / "tuning").iterdir())) == 1
    _ablate(_cache(views={"five": 0.1}), ["ncm"], tmp_path, **options)
    records = [json.loads(p.read_text()) for p in (tmp_path / "tuning").iterdir()]
    assert sorted(record["trials"] for record in records) == [1, 4]


@pytest.mark.parametrize("view", ["center", "rrc:4"])
def test_the_key_of_a_cache_follows_the_bytes_of_a_view(view: str) -> None:
    caches: list[Any] = [
        FakeCache(long_tail_counts(4, 20, 5), noise=noise, views={"rrc:4": 0.1})
        for noise in (0.1, 0.1, 0.2)
    ]
    one, same, other = (cache_key(cache, view, None) for cache in caches)
    assert one == same != other
