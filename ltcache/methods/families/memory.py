"""A memory beside the batch: centroids of the classes."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.shared import CE, COSINE, first
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
        "alone, and channels are standardised; the modulated attention on feature maps is left "
        "out, as is the open-set threshold. AdamW for SGD.",
        mechanism="a meta-embedding: the feature, completed from a memory of centroids and scaled "
        "by how near the nearest centroid is",
        ablation={"head.meta": False},
    ),
)
