"""Changes to a fine-tuning by dotted key: ``{"optimisation.lr": 1e-3, "image.train": "none"}``.

Names are those of the parts (``image.train``, ``classifier.head``, ``optimisation.lr``,
``lr_factors.text``), what is named in a catalogue (``loss``, ``adapters``, ``sampler``,
``augmentation``; several with commas), and the hyper-parameters of what is named there
(``loss.tau``, ``loss_weights.contrastive``, ``classifier.scale``, ``augmentation.scale``,
``adapters.bottleneck``), which are the keyword arguments of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ltcache.errors import UsageError
from ltcache.finetune.methods import TUNINGS
from ltcache.finetune.spec import (
    CONTRASTIVE,
    TEXTS,
    AdapterChoice,
    ClassifierChoice,
    FineTuning,
    ObjectiveTerm,
)
from ltcache.heads import HEADS, keyword_arguments
from ltcache.losses import LOSSES
from ltcache.methods import SMOOTH, different, hyper_parameters, nearest, read_setting, with_changes
from ltcache.sampling import SAMPLERS

_PLAIN = ("template", "sampler", "augmentation", "eval_view", "logit_scale", "average")
_RECORDS = ("image", "text", "optimisation")
_NAMES = ("classifier.head", "loss", "adapters", "augmentation", "sampler")  # changed first
_FLOOR = "optimisation.min_steps"  # changed last: epochs reset it
_STATISTIC = "compensation"  # what losses with needs are given
_MAY_BE_NONE = ("template", "average", "optimisation.clip")


def override_tuning(tuning: FineTuning, overrides: Mapping[str, Any] | None) -> FineTuning:
    """Return the fine-tuning with some settings changed, all hyper-parameters written out.

    Args:
        overrides: dotted key -> value; a text is read as the type of the present value.

    Raises:
        UsageError: an unknown key or name (the nearest is given), a value that cannot be meant, or
            a key that has no effect beside the other settings.
    """
    before = tuning_settings(tuning)
    for key in sorted(overrides or {}, key=lambda key: (key not in _NAMES, key == _FLOOR)):
        tuning = _changed(tuning, key, (overrides or {})[key])
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
    changed: dict[str, Any] = {}
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


def tuning_settings(tuning: FineTuning) -> dict[str, Any]:
    """Return every key that :func:`override_tuning` takes, with its present value."""
    known: dict[str, Any] = {name: getattr(tuning, name) for name in _PLAIN}
    for part in _RECORDS:
        known |= {f"{part}.{k}": v for k, v in asdict(getattr(tuning, part)).items()}
    known |= {f"lr_factors.{k}": v for k, v in tuning.lr_factors.items()}
    known |= {f"{tuning.statistic}.{k}": v for k, v in tuning.statistic_options.items()}
    known |= {f"augmentation.{k}": v for k, v in _augmentation(tuning).items()}
    known |= {f"classifier.{k}": getattr(tuning.classifier, k) for k in ("head", "init", "field")}
    known |= {f"classifier.{k}": v for k, v in _head(tuning.classifier).items()}
    known["loss"] = ",".join(term.name for term in tuning.terms)
    smooth = [_loss(term)[SMOOTH] for term in tuning.terms if SMOOTH in _loss(term)]
    known |= {SMOOTH: all(smooth)} if smooth else {}
    for term in tuning.terms:
        known |= {f"loss.{k}": v for k, v in _loss(term).items()}
        known[f"loss_weights.{term.name}"] = term.weight
    known["adapters"] = ",".join(adapter.name for adapter in tuning.adapters)
    for adapter in tuning.adapters:
        known |= {f"adapters.{k}": v for k, v in _adapter(adapter).items()}
    return known


def _changed(tuning: FineTuning, key: str, value: Any) -> FineTuning:
    known = tuning_settings(tuning)
    if key not in known:
        raise UsageError(f"fine-tuning {tuning.name}: no setting {key!r}; {nearest(key, known)}")
    part, _, name = key.partition(".")
    if key in ("loss", "adapters"):
        return _renamed(tuning, key, value)
    if key in _MAY_BE_NONE and isinstance(value, str) and value.lower() == "none":
        value = None
    read = _read(key, value, known[key])
    if key in _CATALOGUES:
        _require_name(key, read, _CATALOGUES[key]())
    if key == SMOOTH:
        return _with_option(tuning, "loss", SMOOTH, read)
    if key == "augmentation":
        options = tuning.augmentation_options if read == tuning.augmentation else {}
        return replace(tuning, augmentation=read, augmentation_options=options)
    if not name:
        return replace(tuning, **{key: read})
    if part in ("loss", "loss_weights", "adapters"):
        return _with_option(tuning, part, name, read)
    return _in_part(tuning, part, name, read)


def _read(key: str, value: Any, present: Any) -> Any:
    """Return a value as the type of the present one; of several numbers all are read."""
    if isinstance(present, (list, tuple)):
        texts = value.split(",") if isinstance(value, str) else value
        return [read_setting(key, text, 0.0) for text in texts]
    if present is None and isinstance(value, str) and value.isdecimal():
        return int(value)
    return read_setting(key, value, present)


def _in_part(tuning: FineTuning, part: str, name: str, value: Any) -> FineTuning:
    """Return the fine-tuning with one setting of one part changed."""
    if part in _RECORDS:
        named = {name: value}
        if (part, name) == ("optimisation", "epochs"):
            named["min_steps"] = 0  # epochs that somebody names are meant
        return replace(tuning, **{part: replace(getattr(tuning, part), **named)})
    if part == "classifier":
        classifier = tuning.classifier
        if name == "head":
            options = classifier.options if value == classifier.head else {}
            changed = replace(classifier, head=value, options=options)
        elif name in ("init", "field"):
            changed = replace(classifier, **{name: value})
        else:
            changed = replace(classifier, options={**classifier.options, name: value})
        return replace(tuning, classifier=changed)
    fields = {"augmentation": "augmentation_options", "lr_factors": "lr_factors"}
    place = fields.get(part, "statistic_options")
    changes: dict[str, Any] = {place: {**getattr(tuning, place), name: value}}
    return replace(tuning, **changes)


def _renamed(tuning: FineTuning, key: str, value: Any) -> FineTuning:
    """Return the fine-tuning with other losses or adapters; those that stay keep their options."""
    names = _split(value)
    if key == "loss":
        for name in names:
            _require_name("loss", name, {**LOSSES, CONTRASTIVE: None})
        terms = {term.name: term for term in tuning.terms}
        kept = tuple(terms.get(name, ObjectiveTerm(name)) for name in names)
        needed = any(getattr(LOSSES.get(term.name), "needs", ()) for term in kept)
        if needed == (tuning.statistic is not None):
            return replace(tuning, terms=kept)
        statistic, options = (_STATISTIC, _statistic(_STATISTIC)) if needed else (None, {})
        return replace(tuning, terms=kept, statistic=statistic, statistic_options=options)
    for name in names:
        _require_name("adapters", name, _tower_adapters())
    there = {adapter.name: adapter for adapter in tuning.adapters}
    return replace(tuning, adapters=tuple(there.get(name, AdapterChoice(name)) for name in names))


def _with_option(tuning: FineTuning, part: str, name: str, value: Any) -> FineTuning:
    """Return the fine-tuning with an option of those losses or adapters that have it changed."""
    if part == "loss_weights":
        terms = [replace(t, weight=value) if t.name == name else t for t in tuning.terms]
        return replace(tuning, terms=tuple(terms))
    if part == "loss":
        terms = [_given(term, _loss(term), name, value) for term in tuning.terms]
        return replace(tuning, terms=tuple(terms))
    adapters = [_given(entry, _adapter(entry), name, value) for entry in tuning.adapters]
    return replace(tuning, adapters=tuple(adapters))


def _given(entry: Any, options: Mapping[str, Any], name: str, value: Any) -> Any:
    if name not in options:
        return entry
    return replace(entry, options={**entry.options, name: value})


def _split(value: Any) -> Sequence[str]:
    if value is None:
        return ()
    names = value.split(",") if isinstance(value, str) else value
    return tuple(name.strip() for name in names if name.strip() not in ("", "none"))


def _require_name(key: str, name: str, catalogue: Mapping[str, Any]) -> None:
    if name not in catalogue:
        raise UsageError(f"unknown {key} {name!r}; {nearest(name, catalogue)}")


def _written_out(tuning: FineTuning) -> FineTuning:
    return replace(
        tuning,
        classifier=replace(tuning.classifier, options=_head(tuning.classifier)),
        terms=tuple(replace(term, options=_loss(term)) for term in tuning.terms),
        adapters=tuple(replace(entry, options=_adapter(entry)) for entry in tuning.adapters),
        augmentation_options=_augmentation(tuning),
    )


def _head(classifier: ClassifierChoice) -> dict[str, Any]:
    if classifier.head == TEXTS:
        return {}
    return hyper_parameters(HEADS[classifier.head]) | dict(classifier.options)


def _loss(term: ObjectiveTerm) -> dict[str, Any]:
    if term.name == CONTRASTIVE:
        return {}
    return hyper_parameters(LOSSES[term.name]) | dict(term.options)


def _adapter(adapter: AdapterChoice) -> dict[str, Any]:
    kind = _tower_adapters()[adapter.name]
    given = ("seed", "context")
    defaults = {k: v for k, v in keyword_arguments(kind).items() if k not in given}
    return defaults | dict(adapter.options)


def _augmentation(tuning: FineTuning) -> dict[str, Any]:
    kind = _augmentations()[tuning.augmentation]
    written: dict[str, Any] = kind(**tuning.augmentation_options).to_dict()
    return written


def _statistic(name: str) -> dict[str, Any]:
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
