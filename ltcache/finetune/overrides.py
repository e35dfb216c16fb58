"""Changes to a fine-tuning by dotted key: ``{"optimisation.lr": 1e-3, "image.train": "none"}``.

Names are those of the parts (``image.train``, ``classifier.head``, ``optimisation.lr``,
``lr_factors.text``), what is named in a catalogue (``loss``, ``adapters``, ``sampler``,
``augmentation``; several with commas), and the hyper-parameters of what is named there
(``loss.tau``, ``loss_weights.contrastive``, ``classifier.scale``, ``augmentation.scale``,
``adapters.bottleneck``), which are the keyword arguments of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ltcache.errors import UsageError
from ltcache.finetune.methods import TUNINGS
from ltcache.finetune.objective import CONTRASTS
from ltcache.finetune.spec import (
    TEXTS,
    AdapterChoice,
    ClassifierChoice,
    FineTuning,
    ObjectiveTerm,
)
from ltcache.heads import HEADS, keyword_arguments
from ltcache.losses import LOSSES
from ltcache.methods import (
    SMOOTH,
    SettingValues,
    different,
    dotted,
    hyper_parameters,
    in_turn,
    read_names,
    read_setting,
    require_name,
    unknown_setting,
    with_changes,
    with_entry,
)
from ltcache.sampling import SAMPLERS

_PLAIN = (
    "template",
    "sampler",
    "augmentation",
    "composites",
    "eval_view",
    "logit_scale",
    "average",
)
_NESTED = ("image", "text", "optimisation", "lr_factors")
_NAMES = ("classifier.head", "loss", "adapters", "augmentation", "sampler")  # changed first
_STATISTIC = "compensation"  # what losses with needs are given


def override_tuning(tuning: FineTuning, overrides: Mapping[str, Any] | None) -> FineTuning:
    """Return the fine-tuning with some settings changed, all hyper-parameters written out.

    Args:
        overrides: dotted key -> value; a text is read as the type of the present value.

    Raises:
        UsageError: an unknown key or name (the nearest is given), a value that cannot be meant, or
            a key that has no effect beside the other settings.
    """
    before = tuning_settings(tuning)
    for key, value in in_turn(overrides, _NAMES).items():
        tuning = _changed(tuning, key, value)
    after = tuning_settings(tuning)
    for key in overrides or {}:
        if after.get(key) != before.get(key) and (reason := _without_effect(tuning, key)):
            raise UsageError(f"fine-tuning {tuning.name}: {key} has no effect: {reason}")
    return _named(_written_out(tuning))


def _named(tuning: FineTuning) -> FineTuning:
    """Return the fine-tuning with a name that says what was changed from the catalogue's entry."""
    base = TUNINGS.get(tuning.name.partition(" (")[0])
    if base is None:
        return tuning
    now, before = tuning_settings(tuning), _written_out(base)
    changed: SettingValues = {}
    for key in _NAMES:
        if now[key] != tuning_settings(before)[key]:
            changed[key] = now[key]
            before = _written_out(_changed(before, key, now[key]))
    changed |= different(now, tuning_settings(before))
    if changed.get(SMOOTH):
        changed = {k: v for k, v in changed.items() if not k.endswith(f".{SMOOTH}")}
    return replace(tuning, **with_changes(base, changed))


def _without_effect(tuning: FineTuning, key: str) -> str:
    """Return why a setting changes nothing, or an empty text where it does."""
    part, _, name = key.partition(".")
    if key == "optimisation.momentum" and tuning.optimisation.optimiser != "sgd":
        return f"optimisation.optimiser is {tuning.optimisation.optimiser}, momentum is of sgd"
    if part == "classifier" and name != "head" and tuning.scores_texts:
        return f"classifier.head is {TEXTS}, the text tower, which has no {name}"
    if key == "eval_view" and tuning.scores_texts:
        return f"classifier.head is {TEXTS}, which scores the center view alone"
    if part == "lr_factors" and name not in _trained_parts(tuning):
        return f"nothing is trained in the part {name!r}"
    return ""


def _trained_parts(tuning: FineTuning) -> set[str]:
    """Return those of :data:`ltcache.finetune.spec.PARTS` that have parameters to train."""
    trained = {
        "image": tuning.image.train != "none",
        "text": tuning.text.train != "none" or tuning.logit_scale == "trained",
        "adapters": bool(tuning.adapters),
        "classifier": not tuning.scores_texts,
    }
    return {part for part, trains in trained.items() if trains}


def tuning_settings(tuning: FineTuning) -> SettingValues:
    """Return every key that :func:`override_tuning` takes, with its present value."""
    known: SettingValues = {name: getattr(tuning, name) for name in _PLAIN}
    for part in _NESTED:
        known |= dotted(part, getattr(tuning, part))
    known |= dotted(tuning.statistic or "", tuning.statistic_options)
    known |= dotted("augmentation", _augmentation(tuning))
    known |= {f"classifier.{k}": getattr(tuning.classifier, k) for k in ("head", "init", "field")}
    known |= dotted("classifier", _head(tuning.classifier))
    known["loss"] = ",".join(term.name for term in tuning.terms)
    smooth = [_loss(term)[SMOOTH] for term in tuning.terms if SMOOTH in _loss(term)]
    known |= {SMOOTH: all(smooth)} if smooth else {}
    for term in tuning.terms:
        known |= dotted("loss", _loss(term)) | {f"loss_weights.{term.name}": term.weight}
    known["adapters"] = ",".join(adapter.name for adapter in tuning.adapters)
    for adapter in tuning.adapters:
        known |= dotted("adapters", _adapter(adapter))
    return known


def _changed(tuning: FineTuning, key: str, value: Any) -> FineTuning:
    known = tuning_settings(tuning)
    if key not in known:
        raise unknown_setting(f"fine-tuning {tuning.name}", key, known)
    if key in _CATALOGUES:
        require_name(key, value, _CATALOGUES[key]())
    part, _, name = key.partition(".")
    if part in _CHANGES:
        return _CHANGES[part](tuning, key, value, known[key])
    field = {tuning.statistic: "statistic_options"}.get(part, part)
    changed: Any = with_entry(getattr(tuning, field) if name else tuning, key, value, known[key])
    return replace(tuning, **{field: changed}) if name else changed


def _with_augmentation(tuning: FineTuning, key: str, value: Any, present: Any) -> FineTuning:
    """Return the fine-tuning with another augmentation, or one of its options changed."""
    if key == "augmentation":
        options = tuning.augmentation_options if value == present else {}
        return replace(tuning, augmentation=value, augmentation_options=options)
    options = with_entry(tuning.augmentation_options, key, value, present)
    return replace(tuning, augmentation_options=options)


def _with_classifier(tuning: FineTuning, key: str, value: Any, present: Any) -> FineTuning:
    """Return the fine-tuning with another classifier, or one of its options changed."""
    classifier = tuning.classifier
    if key == "classifier.head":
        options = classifier.options if value == present else {}
        return replace(tuning, classifier=replace(classifier, head=value, options=options))
    if key in ("classifier.init", "classifier.field"):
        return replace(tuning, classifier=with_entry(classifier, key, value))
    options = with_entry(classifier.options, key, value, present)
    return replace(tuning, classifier=replace(classifier, options=options))


def _with_losses(tuning: FineTuning, key: str, value: Any, present: Any) -> FineTuning:
    """Return the fine-tuning with other losses, those that stay keeping their options, or with an
    option of those that have it changed."""
    if key != "loss":
        name, read = key.rpartition(".")[2], read_setting(key, value, present)
        terms = tuple(_given(term, _loss(term), name, read) for term in tuning.terms)
        return replace(tuning, terms=terms)
    names = read_names(value)
    for name in names:
        require_name("loss", name, {**LOSSES, **CONTRASTS})
    there = {term.name: term for term in tuning.terms}
    kept = tuple(there.get(name, ObjectiveTerm(name)) for name in names)
    needed = any(getattr(LOSSES.get(term.name), "needs", ()) for term in kept)
    if needed == (tuning.statistic is not None):
        return replace(tuning, terms=kept)
    statistic, options = (_STATISTIC, _statistic(_STATISTIC)) if needed else (None, {})
    return replace(tuning, terms=kept, statistic=statistic, statistic_options=options)


def _with_weight(tuning: FineTuning, key: str, value: Any, present: Any) -> FineTuning:
    name = key.partition(".")[2]
    terms = [
        with_entry(t, key, value, name="weight") if t.name == name else t for t in tuning.terms
    ]
    return replace(tuning, terms=tuple(terms))


def _with_adapters(tuning: FineTuning, key: str, value: Any, present: Any) -> FineTuning:
    """Return the fine-tuning with other adapters, those that stay keeping their options, or with
    an option of those that have it changed."""
    if key != "adapters":
        name, read = key.partition(".")[2], read_setting(key, value, present)
        adapters = tuple(_given(entry, _adapter(entry), name, read) for entry in tuning.adapters)
        return replace(tuning, adapters=adapters)
    names = read_names(value)
    for name in names:
        require_name("adapters", name, _tower_adapters())
    there = {adapter.name: adapter for adapter in tuning.adapters}
    return replace(tuning, adapters=tuple(there.get(name, AdapterChoice(name)) for name in names))


_CHANGES: Mapping[str, Callable[[FineTuning, str, Any, Any], FineTuning]] = {
    "augmentation": _with_augmentation,
    "classifier": _with_classifier,
    "loss": _with_losses,
    "loss_weights": _with_weight,
    SMOOTH: _with_losses,
    "adapters": _with_adapters,
}


def _given(entry: Any, options: Mapping[str, Any], name: str, value: Any) -> Any:
    if name not in options:
        return entry
    return replace(entry, options={**entry.options, name: value})


def _written_out(tuning: FineTuning) -> FineTuning:
    return replace(
        tuning,
        classifier=replace(tuning.classifier, options=_head(tuning.classifier)),
        terms=tuple(replace(term, options=_loss(term)) for term in tuning.terms),
        adapters=tuple(replace(entry, options=_adapter(entry)) for entry in tuning.adapters),
        augmentation_options=_augmentation(tuning),
    )


def _head(classifier: ClassifierChoice) -> SettingValues:
    if classifier.head == TEXTS:
        return {}
    return hyper_parameters(HEADS[classifier.head]) | dict(classifier.options)


def _loss(term: ObjectiveTerm) -> SettingValues:
    kind = {**LOSSES, **CONTRASTS}[term.name]
    return hyper_parameters(kind) | dict(term.options)


def _adapter(adapter: AdapterChoice) -> SettingValues:
    kind = _tower_adapters()[adapter.name]
    given = ("seed", "context")
    defaults = {k: v for k, v in keyword_arguments(kind).items() if k not in given}
    return defaults | dict(adapter.options)


def _augmentation(tuning: FineTuning) -> SettingValues:
    kind, options = _augmentations()[tuning.augmentation], tuning.augmentation_options
    try:
        written: SettingValues = kind(**options).to_dict()
    except UsageError:
        raise
    except (TypeError, ValueError):
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        raise UsageError(f"augmentation {tuning.augmentation}: {given} cannot be meant") from None
    return written


def _statistic(name: str) -> SettingValues:
    from ltcache.fit import STATISTICS

    return keyword_arguments(STATISTICS[name])


def _tower_adapters() -> Mapping[str, Any]:
    from ltcache.encoder.adapters import TOWER_ADAPTERS

    return TOWER_ADAPTERS


def _augmentations() -> Mapping[str, Any]:
    from ltcache.finetune.augmentation import AUGMENTATIONS

    return AUGMENTATIONS


_CATALOGUES: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "classifier.head": lambda: {TEXTS: None, **HEADS},
    "sampler": lambda: SAMPLERS,
    "augmentation": _augmentations,
}
