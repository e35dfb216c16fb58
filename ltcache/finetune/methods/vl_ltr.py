"""VL-LTR's first stage: both towers trained on images against random sentences of their classes."""

from __future__ import annotations

from ltcache.finetune.spec import (
    SENTENCES,
    FineTuning,
    ObjectiveTerm,
    TowerTuning,
    TuningOptimisation,
)

TUNINGS = (
    FineTuning(
        name="vl-ltr",
        title="both towers trained on images against random sentences of their classes, and held "
        "to the encoder as it was",
        reference="Tian et al., VL-LTR: Learning class-wise visual-linguistic representation for "
        "long-tailed visual recognition, ECCV 2022, class-wise visual-linguistic pre-training",
        fidelity="analogue",
        differs="Crops and mirror stand for RandAugment, colour and random erasing, and the "
        "manifest's descriptions for sentences of Wikipedia, beside the 80 of CLIP as there. The "
        "warm-up rises with every step, the last batch of an epoch is not dropped, logit_scale "
        "stays below 100, and validation images choose the epoch, by the class texts. The second "
        "stage is `ltcache fit-adapter --method vl-ltr` on the features that are extracted anew. "
        "loss.distillation=0, loss.smoothing=0 and loss.templates=none switch its parts off.",
        equation="L = (1 - b) CE(z, smoothed [y_i = y_j] / n_i) + b CE(z, softmax z_start), the "
        "mean of both directions, z_ij = logit_scale <x_i, sentence_j>",
        mechanism="random sentences of a class as positives of its images, and a frozen teacher",
        image=TowerTuning(train="full"),
        text=TowerTuning(train="full"),
        terms=(ObjectiveTerm(SENTENCES, weight=0.5),),  # the term sums both directions
        sampler="square_root",
        logit_scale="trained",
        optimisation=TuningOptimisation(
            optimiser="adamw", lr=3.5e-5, weight_decay=0.05, batch=1024, epochs=50, warmup=5.0
        ),
    ),
)
