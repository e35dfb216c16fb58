"""Sage: class descriptions guide the visual blocks, a factor per class enters the loss."""

from __future__ import annotations

from ltcache.finetune.methods.lift import LIFT
from ltcache.finetune.spec import AdapterChoice, FineTuning, ObjectiveTerm

TUNINGS = (
    FineTuning(
        name="sage",
        title="attention over class descriptions in the visual blocks, compensated adjustment",
        reference="Peng, Zhang and Cheung, Semantic-guided fine-tuning (Sage), arXiv 2507.12807",
        fidelity="reconstruction",
        differs="Only the abstract is public: the adapter's form is ours and the compensation is "
        "derived from Bayes' rule; head, schedule and augmentation are LIFT's. adapters=none "
        "switches the guidance off, loss.lam=0 the compensation.",
        equation="CE(z + tau log pi - lam delta, y); x + W_o softmax(q K^T / sqrt(b)) V",
        mechanism="class texts guide the features, and a factor per class enters the loss",
        adapters=(AdapterChoice("sg_adapter"),),
        classifier=LIFT.classifier,
        terms=(ObjectiveTerm("compensated_logit_adjustment", {"lam": 0.1}),),
        statistic="compensation",
        statistic_options={"estimator": "finite_sample", "folds": 5},
        optimisation=LIFT.optimisation,
    ),
)
