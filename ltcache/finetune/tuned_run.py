"""What was tuned, as a run on the features extracted anew: evaluate, predict and report take it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ltcache.cache import Cache
from ltcache.finetune.spec import FineTuning
from ltcache.fit import fit_adapter
from ltcache.heads import FeatureTransform
from ltcache.methods import FeatureSpec, Method, Optimisation, Train
from ltcache.runs import Run, RunCost, RunRecord, finish_run

if TYPE_CHECKING:
    from ltcache.finetune.finetuning import FineTuned


def tuned_run(tuned: FineTuned, cache: Cache, out: str | Path, overwrite: bool = False) -> Run:
    """Write the classifier that a fine-tuning ended in as a run on the child's features.

    A head is taken as it was tuned; where the class texts are the classifier, the run is zero-shot
    with the child's texts. Scored on ``val`` and ``test``.

    Args:
        tuned: what :func:`ltcache.finetune.finetune` returned.
        cache: the child's, of every split.
        out: the run's directory.

    Raises:
        UsageError: ``out`` is taken.
    """
    if tuned.head is None:
        return fit_adapter(cache, "zero-shot", out, overwrite=overwrite)
    spec = head_method(tuned.record.method, tuned.record.field, cache)
    run = Run(
        spec,
        tuned.head,
        FeatureTransform("none", tuned.head.dim),
        _record(tuned, spec, cache),
        tuned.history,
        class_names=tuple(cache.classes.names),
    )
    return finish_run(run, cache, out, overwrite=overwrite)


def head_method(tuning: FineTuning, field: str, cache: Cache) -> Method:
    """Return the tuned head as a method on cached features, named after the fine-tuning."""
    optimisation = tuning.optimisation
    loss = tuning.logit_terms[0]
    view = tuning.eval_view if tuning.eval_view in cache.views else "center"
    stage = Train(
        head=tuning.classifier.head,
        head_options=dict(tuning.classifier.options),
        init=tuning.classifier.init,
        loss=loss.name,
        loss_options=dict(loss.options),
        sampler=tuning.sampler,
        optimisation=Optimisation(
            optimisation.optimiser,
            optimisation.lr,
            optimisation.weight_decay,
            optimisation.momentum,
            optimisation.batch,
            optimisation.epochs,
            min_steps=0,
        ),
    )
    return Method(
        name=f"finetune-{tuning.name}",
        title=tuning.title,
        feature=FeatureSpec(field, "center", view),
        stages=(stage,),
        reference=tuning.reference,
        fidelity=tuning.fidelity,
        differs=f"The head was tuned together with the encoder. {tuning.differs}",
        equation=tuning.equation,
        mechanism=tuning.mechanism,
    )


def _record(tuned: FineTuned, method: Method, cache: Cache) -> RunRecord:
    assert tuned.head is not None and tuned.record.head is not None
    return RunRecord.on_cache(
        cache,
        method.feature,
        None,
        seed=tuned.record.seed,
        field=tuned.record.field,
        dim=tuned.head.dim,
        class_counts=tuple(cache.class_counts("train").tolist()),
        tuned_on=dict(tuned.record.tuned_on),
        choices=({},),
        init=(tuned.record.head.init,),
        residual_prior=tuned.record.residual_prior,
        stale=(),
        training=tuned.record.training,
        cost=RunCost.of(cache, cache.crops(method.feature.eval_view), 0.0),
    )
