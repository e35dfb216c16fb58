"""``ltcache fit-adapter``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli import completion
from ltcache.cli.combinations import needs, option_rules
from ltcache.cli.options import (
    LocalPath,
    allow_stale,
    cache_argument,
    general,
    parse_settings,
    print_json,
    settings_option,
    terminal_width,
)
from ltcache.cli.tuning import extra_options, parse_grid, read_extra, tuning_options
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.ablate import MethodChoice, PairedChoice, TuningTrial
    from ltcache.metrics import PairedDifference


@click.command("fit-adapter", short_help="Fit a long-tail method on cached features.")
@cache_argument
@click.option(
    "--method",
    shell_complete=completion.method_names,
    default="logit-adjustment",
    show_default=True,
    help="See ltcache methods; auto: the first of a short list that the best is not shown to "
    "beat on validation data.",
)
@click.option("--out", required=True, type=LocalPath(), help="The run to write.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="0, 1, ...")
@click.option(
    "--prompts",
    shell_complete=completion.prompt_names,
    help="Class texts for heads that start from them.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--overwrite", is_flag=True, help="Replace a run of other content.")
@click.option("--allow-double-correction", is_flag=True, help="Correct a prior a second time.")
@settings_option(
    "Change a setting of the method: loss.tau=0.5, head=cosine, init=class_mean, "
    "optimisation.epochs=20. `ltcache methods NAME` lists them."
)
@extra_options
@tuning_options("What --tune tries, instead of the default search space.")
@allow_stale
@general
@option_rules(
    needs("trials", "tune"),
    needs("tune_folds", "tune"),
    needs("tuner", "tune"),
    needs("grid", "tune", why="it says what --tune tries; ltcache ablate compares its values"),
    needs("extra_weight", "extra"),
)
def command(
    cache: Path, method: str, out: Path, seeds: int, settings: tuple[str, ...], **options: Any
) -> None:
    """Fit a head on the training split of CACHE, choose its epoch on validation data, score it.

    \b
    ltcache fit-adapter cache --method logit-adjustment --out runs/la --seeds 3
    ltcache fit-adapter cache --method ce -s head=cosine -s init=class_mean --out runs/ce-cosine
    ltcache fit-adapter cache --method logit-adjustment --tune --out runs/la-tuned
    ltcache fit-adapter cache --method auto --out runs/auto
    ltcache fit-adapter cache --method lift-lp --extra retrieved --extra-weight p --out runs/web
    """
    from ltcache.fit import fit_adapter, fit_seeds

    as_json = options.pop("as_json")
    options["extra"] = read_extra(options.pop("extra"), options.pop("extra_weight"))
    method, chosen = _choose(cache, method, parse_settings(settings), options)
    options |= chosen
    if seeds > 1:
        found = fit_seeds(cache, method, out, seeds=range(seeds), **options)
        _say_unused(found.runs[0], options["prompts"])
        _show_seeds(found, out, as_json)
        _say_unscored(found.runs[0])
        _say_unused_crops(found.runs[0], cache)
        return
    run = fit_adapter(cache, method, out, **options)
    _say_unused(run, options["prompts"])
    if as_json:
        print_json(run.metrics_record())
    else:
        _show(run)
    _say_unscored(run)
    _say_unused_crops(run, cache)


def _say_unused_crops(run: Any, cache: Path) -> None:
    from ltcache.cache import open_cache
    from ltcache.fit import unused_random_crops

    tried = run.record.tuning is not None  # tuning tries the views itself
    said = None if tried else unused_random_crops(open_cache(cache).views, [run.method])
    if said is not None:
        click.echo(f"note: {said}", err=True)


def _say_unused(run: Any, prompts: str | None) -> None:
    if prompts is not None and run.record.prompts is None:
        click.echo(
            f"note: {run.method.name} uses no class texts, so --prompts {prompts} had no effect",
            err=True,
        )


def _say_unscored(run: Any) -> None:
    """Say on which rows a run was not scored although a reader may think so."""
    from ltcache.manifest import unscored

    if not run.metrics:
        click.echo(unscored(run.record.splits), err=True)
    elif list(run.metrics) == ["val"] and "val" in run.record.tuned_on.values():
        click.echo("note: val is also what chose; no labelled test split was left", err=True)


def _choose(
    cache: Path, method: str, overrides: Mapping[str, Any], options: dict[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """Return the method, and overrides and the record of what chose them, for fit_adapter."""
    from ltcache.ablate import choose_method, tune
    from ltcache.methods import has_setting, method_by_name

    search = {name: options.pop(name) for name in ("tuner", "trials", "tune_folds")}
    tuned, grid = options.pop("tune"), parse_grid(options.pop("grid"))
    same = ("prompts", "device", "allow_stale", "allow_double_correction", "extra")
    fit = {name: options[name] for name in same}
    record: Mapping[str, Any] = {}
    if method == "auto":
        choice = choose_method(cache, overrides=overrides, progress=_say_method, **fit)
        click.echo("\n".join(choice_lines(choice)), err=True)
        method, record = choice.method, choice.tuning()
        overrides = {k: v for k, v in overrides.items() if has_setting(method_by_name(method), k)}
        overrides |= choice.settings
    if tuned:
        found = tune(cache, method, grid=grid or None, overrides=overrides, progress=_say_trial,
                     **search, **fit)  # fmt: skip
        click.echo(f"chose {_pairs(found.chosen)} of {found.trials} settings, by mean accuracy per "
                   f"class on {found.tuned_on}: {100 * found.score:.1f} %", err=True)  # fmt: skip
        for line in unseen_lines(found.unseen_classes):
            click.echo(f"{line}; with --tune-folds 3 every training image chooses", err=True)
        overrides = {**overrides, **found.chosen}
        both = {**record.get("chosen", {}), **found.chosen}
        record = {**record, **found.to_dict(), "chosen": both}
    return method, {"overrides": overrides, "tuning": record or None}


def choice_lines(choice: MethodChoice) -> list[str]:
    """Return what ``--method auto`` compared and chose, in words."""
    from ltcache.ablate.auto import NO_PROMPTS

    title = f"mean accuracy per class on {choice.tuned_on}, %, {counted(choice.seeds, 'seed')}"
    lines = paired_lines(choice.methods, title)
    lines += unseen_lines(choice.methods.unseen_classes)
    if choice.views is not None:
        lines += paired_lines(choice.views, f"{choice.method} on other views, {title}")
    lines += [f"left out: {name}: {NO_PROMPTS}" for name in choice.left_out]
    lines += [f"could not be fitted: {name}: {why}" for name, why in choice.failed.items()]
    if choice.absent:
        lines.append(
            f"not tried, since the cache lacks them: views {', '.join(choice.absent)}; ltcache "
            f"extract SOURCE --out CACHE --views {','.join(choice.absent)} adds them"
        )
    return lines


def unseen_lines(classes: int | None) -> list[str]:
    """Return which classes had no part in a choice, in words; nothing where all had."""
    return [f"no part in that: {counted(classes, 'class')} without a row there"] if classes else []


def paired_lines(choice: PairedChoice, title: str) -> list[str]:
    """Return what was compared, and why the chosen one was kept."""
    scores = ", ".join(f"{name} {100 * score:.1f}" for name, score in choice.scores.items())
    lines = [f"{title}: {scores}"]
    if choice.chosen == next(iter(choice.scores)) == choice.best:
        return [*lines, f"chose {choice.chosen}: the best, and the first of the list"]
    lines.append(
        f"points below the best, {choice.best}, on the same rows, with 95 % intervals (paired "
        f"bootstrap over {choice.regret.units} units):"
    )
    lines += [f"  {name} {_points(d)}, without zero" for name, d in choice.beaten.items()]
    if choice.chosen == choice.best:
        return [*lines, f"chose {choice.best}: it beats all before it"]
    lines.append(f"  {choice.chosen} {_points(choice.regret)}, with zero")
    return [*lines, f"chose {choice.chosen}: the first that {choice.best} is not shown to beat"]


def _points(found: PairedDifference) -> str:
    return f"{100 * found.difference:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _say_method(name: str, number: int, total: int) -> None:
    click.echo(f"auto: {name} ({number} of {total})", err=True)


def _say_trial(trial: TuningTrial) -> None:
    result = trial.failed or f"{100 * trial.scores['val_mean_per_class']:.1f} %"
    click.echo(f"tried {_pairs(trial.settings)}: {result}", err=True)


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or "the defaults"


def _show(run: Any) -> None:
    from ltcache.report import footnote, results_table

    click.echo(f"{run.path}: {run.method.name}, {run.method.title}")
    if run.metrics:
        named = {f"{run.method.name}, {split}": values for split, values in run.metrics.items()}
        click.echo(results_table(named, width=terminal_width()))
        last = list(run.metrics)[-1]
        click.echo(footnote(run.metrics[last], last))
        _say_learned(run, list(run.metrics)[:-1])
    by_rows: dict[str, list[str]] = {}
    for name, rows in run.record.tuned_on.items():
        by_rows.setdefault(rows, []).append(name)
    chosen = "; ".join(f"{', '.join(names)} chosen on {rows}" for rows, names in by_rows.items())
    click.echo(f"{chosen}; {run.record.cost.head_seconds:.1f} s")


def _say_learned(run: Any, splits: Iterable[str], prefix: str = "") -> None:
    """Say what a transductive run learned from the rows of some splits."""
    for split in splits:
        for adaptation in run.metrics[split].adaptations:
            click.echo(prefix + adaptation.words())


def _show_seeds(found: Any, out: Path, as_json: bool) -> None:
    from ltcache.report import seeds_table

    if as_json:
        print_json(found.summary)
        return
    click.echo(
        f"{out}: {found.runs[0].method.name}, {counted(len(found.runs), 'seed')}, mean ± sd in %"
    )
    if found.summary:
        click.echo(seeds_table(found.summary, width=terminal_width()))
    for run in found.runs:
        _say_learned(run, run.metrics, f"seed {run.record.seed}: ")
