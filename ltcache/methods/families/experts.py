"""Several experts, each a residual block on the features and a classifier of its own."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.shared import CE, first
from ltcache.methods.optimisation import LEAST_STEPS, Optimisation
from ltcache.methods.spec import Adjust, Method

# Larger batches and fewer steps than a single head: a step moves millions of numbers. Below 7,700
# rows it is the floor on steps that counts, not the epochs. With 192 steps for 96 ride gained 1.1
# points on CLIP features of 1,649 photographs and 2.7 on 674 tiles, lost 0.4 on 2,640 photographs
# of groceries, and sade did not change; 400 and 800 steps brought no more.
_EXPERTS = Optimisation(lr=2e-3, weight_decay=0.1, batch=512, epochs=12, min_steps=2 * LEAST_STEPS)

_FEATURE_LEVEL = (
    "Feature level: the experts share the frozen encoder and differ in a small residual block, "
    "where the original gives each its own last blocks, trained from scratch"
)


def ride(classifier: str) -> Method:
    """Return RIDE with a cosine (LDAM) or a linear (cross entropy) classifier."""
    cosine = classifier == "cosine"
    return replace(
        CE,
        name="ride",
        title="three experts pushed apart, logits averaged",
        stages=(
            first(
                head="experts",
                head_options={"classifier": classifier, **({"scale": 30.0} if cosine else {})},
                loss="ldam" if cosine else "cross_entropy",
                objective="ride",
                optimisation=_EXPERTS,
            ),
        ),
        reference="Wang et al., Long-tailed recognition by routing diverse distribution-aware "
        "experts (RIDE), ICLR 2021",
        fidelity="analogue",
        differs=f"{_FEATURE_LEVEL}; the router, which saves computation, is left out. "
        "objective.reweight_factor is that of CIFAR; 0.02 on ImageNet-LT and 0.015 on iNaturalist "
        "are released, too.",
        mechanism="a negative KL divergence between each expert and their mean",
        ablation={"objective.delta": 0.0},
    )


def reslt(classifier: str) -> Method:
    """Return ResLT with one shared linear or cosine classifier."""
    return replace(
        CE,
        name="reslt",
        title="residual branches for all, medium and few, and few classes, summed",
        stages=(
            first(
                head="reslt",
                head_options={"classifier": classifier},
                objective="reslt",
                optimisation=_EXPERTS,
            ),
        ),
        reference="Cui et al., ResLT: Residual learning for long-tailed recognition, TPAMI 2022",
        fidelity="analogue",
        differs="Its block stands on the final vector of a frozen encoder, where the original "
        "trains the trunk; groups follow from the class counts, not from class numbers.",
        mechanism="branches that only see the losses of rarer classes",
        ablation={"objective.beta": 0.0},
    )


SADE = replace(
    CE,
    name="sade",
    title="three experts for the long-tailed, the balanced and the reversed prior, averaged",
    stages=(
        first(
            head="experts",
            head_options={"classifier": "cosine", "scale": 30.0},
            objective="sade",
            optimisation=_EXPERTS,
        ),
    ),
    reference="Zhang et al., Self-supervised aggregation of diverse experts (SADE), NeurIPS 2022",
    fidelity="analogue",
    differs=f"{_FEATURE_LEVEL}; without the aggregation at test time, which is transductive: tade "
    "has it.",
    mechanism="experts trained for different class priors",
    ablation={"objective": "mean"},
)

TADE = replace(
    SADE,
    name="tade",
    title="the experts of sade, weighed by how alike two crops of the test images come out",
    stages=(*SADE.stages, Adjust("sade_aggregation", {"min_steps": LEAST_STEPS})),
    reference="Zhang et al., Self-supervised aggregation of diverse experts (SADE, first named "
    "TADE), NeurIPS 2022",
    differs=f"{_FEATURE_LEVEL}; the crops are those of the cache (view rrc:2), without the colour, "
    f"grey and blur of the original, and few images are gone through until {LEAST_STEPS} steps are "
    "made. It is transductive: it learns three weights from the images of the split that it "
    "predicts, without their labels.",
    mechanism="weights of the experts learned from unlabelled rows to be predicted",
    ablation={"adjustment.epochs": 0},
)

METHODS = (
    ride("cosine"),
    reslt("linear"),
    SADE,
    TADE,
    replace(
        CE,
        name="bbn",
        title="a branch for the data as they are and one for rare classes, mixed over time",
        stages=(
            first(
                head="branches",
                sampler="instance",
                partner="reversed",
                fusion=("bbn",),
                optimisation=_EXPERTS,
            ),
        ),
        reference="Zhou et al., BBN: Bilateral-branch network with cumulative learning for "
        "long-tailed visual recognition, CVPR 2020",
        fidelity="analogue",
        differs="Feature level: the branches are small residual blocks on a frozen encoder, where "
        "the original's are its last blocks, trained with all the others.",
        mechanism="a second branch whose batches a reversed sampler draws, faded in by a parabola",
        ablation={"partner": "instance"},
    ),
    replace(
        CE,
        name="lfme",
        title="experts on many, medium and few classes, distilled into one self-paced student",
        stages=(
            first(head="experts", objective="group_experts", optimisation=_EXPERTS),
            first(sampler="class_aware", objective="lfme"),
        ),
        reference="Xiang et al., Learning from multiple experts: Self-paced knowledge distillation "
        "for long-tailed classification, ECCV 2020",
        fidelity="analogue",
        differs=f"{_FEATURE_LEVEL}; the student is a linear head. The bounds of its curriculum are "
        "the ratios of the groups' mean counts, of which the released code has two as constants. "
        "Without validation rows the student's progress is judged on its training rows.",
        mechanism="distillation from experts of groups of classes",
        ablation={"stages.1.objective.distil": 0.0},
    ),
    replace(
        CE,
        name="ace",
        title="reconstruction: experts on ever rarer classes, averaged where they are responsible",
        stages=(first(head="nested_experts", objective="ace", optimisation=_EXPERTS),),
        reference="Cai et al., ACE: Ally complementary experts for solving long-tailed recognition "
        "in one-shot, ICCV 2021",
        fidelity="reconstruction",
        differs="From the abstract: the softplus that pushes down classes an expert never sees and "
        "its weight, the learning rates by the square root of the share of rows that an expert "
        "sees, and the factors that bring logits of experts to one range (mean lengths of class "
        f"weights) are our own. {_FEATURE_LEVEL}.",
        mechanism="experts on nested sets of classes that complement one another",
        ablation={"objective.complementary": 0.0},
    ),
)
