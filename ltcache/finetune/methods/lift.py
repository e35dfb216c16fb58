"""LIFT: few weights in every block of a frozen tower, a cosine head from the class texts."""

from __future__ import annotations

from dataclasses import replace

from ltcache.finetune.spec import (
    AdapterChoice,
    ClassifierChoice,
    FineTuning,
    ObjectiveTerm,
    TuningOptimisation,
)

LIFT = FineTuning(
    name="lift",
    title="AdaptFormer in every block, cosine head from the class texts, logit adjustment",
    reference="Shi et al., Long-tail learning with foundation model (LIFT), ICML 2024",
    fidelity="exact",
    differs="Nesterov momentum, decay on matrices and kernels and a cosine per step, where the "
    "released code has plain momentum, decay on all that trains and a cosine per epoch. Images are "
    "judged at the encoder's own size and interpolation, where it enlarges them bilinearly by 8/7 "
    "and crops. float32 unless optimisation.precision says otherwise; validation images choose "
    "the epoch; test-time crops are eval_view=five. Convolutional towers, which LIFT does not "
    "have, get residual adapters after their blocks.",
    equation="x' = MLP(LN x) + x + s W_up ReLU(W_down LN x); CE(25 <f, w_c> + log pi_c, y)",
    adapters=(AdapterChoice("adaptformer"),),
    classifier=ClassifierChoice("cosine", {"scale": 25.0}, init="text|class_mean"),
    terms=(ObjectiveTerm("logit_adjustment"),),
    optimisation=TuningOptimisation(lr=1e-2, batch=128, epochs=10),
)

TUNINGS = (
    LIFT,
    replace(
        LIFT,
        name="lift-plus",
        title="LIFT in half the epochs, crops that grow over the training, no flip",
        reference="Shi et al., LIFT+: lightweight fine-tuning for long-tail learning, "
        "arXiv 2504.13282",
        augmentation="minimalist",
        optimisation=replace(LIFT.optimisation, lr=2e-2, epochs=5),
    ),
)
