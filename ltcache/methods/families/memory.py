"""A memory beside the batch: centroids of the classes, or past rows."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.shared import CE, COSINE, STANDARD, first
from ltcache.methods.spec import Method, Train

METHODS: tuple[Method, ...] = (
    replace(
        CE,
        name="oltr",
        title="a squashed cosine head on features that a memory of class centroids completes",
        stages=(
            first(),
            Train(
                head="meta_embedding",
                init="previous",
                objective="oltr",
                sampler="class_aware",
                lr_factors={"memory": 0.1},
                optimisation=COSINE,
            ),
        ),
        reference="Liu et al., Large-scale long-tailed recognition in an open world (OLTR), "
        "CVPR 2019",
        fidelity="analogue",
        differs="The features are a frozen encoder's, so that the centroid loss moves the memory "
        "alone, and channels are standardised; the modulated attention is off unless -s "
        "feature.field=tokens -s feature.transform=none -s head.attention=true ask for it on a "
        "cache with tokens; the open-set threshold is left out. AdamW for SGD.",
        mechanism="a meta-embedding: the feature, completed from a memory of centroids and scaled "
        "by how near the nearest centroid is",
        ablation={"head.meta": False},
    ),
    replace(
        CE,
        name="mbj",
        title="reconstruction: cross entropy on the batch and on a bank of past rows, mostly rare",
        feature=replace(STANDARD, view="rrc|rrc:2"),
        stages=(first(objective="mbj"),),
        reference="Liu et al., Memory-based jitter (MBJ): Improving visual recognition on "
        "long-tailed data with diversity in memory, AAAI 2022",
        fidelity="reconstruction",
        differs="From the abstract: the size of the bank, the probability with which a class "
        "enters it (mean count over its count, 1 at most) and its weight are our own. Random crops "
        "under a frozen encoder stand for the jitter of features that training brings, so that "
        "crt -s feature.view=rrc:2, which draws those crops class-balanced, is its plain "
        "neighbour; the jitter of weights and the bank of prototypes for retrieval are left out.",
        mechanism="a bank of past rows that rare classes enter more often than frequent ones",
        ablation={"objective.bank": 0},
    ),
)
