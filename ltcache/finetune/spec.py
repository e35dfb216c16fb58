"""What a fine-tuning is made of: frozen records that turn into JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ltcache.errors import UsageError
from ltcache.methods import (
    FIELDS,
    LEAST_STEPS,
    epochs_to_make,
    read_optimisation,
    written_optimisation,
)
from ltcache.records import JsonObject, JsonRecord, one_line, read_record

TEXTS = "texts"
"""Name of the classifier that scores embeddings against the class texts of the text tower."""
CONTRASTIVE = "contrastive"
"""Name of the loss between the images and the class texts of a batch."""
SENTENCES = "sentence_contrastive"
"""Name of the loss between the images of a batch and a random sentence of each one's class."""
IN_BATCH = (CONTRASTIVE, SENTENCES)
"""Names of the losses that compare the images of a batch with texts, and need no logits."""
AUTO: Literal["auto"] = "auto"

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "weights": ("pretrained", "random"),
    "train": ("full", "bias", "layer_norm", "none"),
    "optimiser": ("sgd", "adamw"),
    "precision": ("fp32", "bf16", "fp16"),
    "logit_scale": ("fixed", "trained"),
    "field": tuple(name for name in FIELDS if name != "tokens"),
}


def _require_known(record: Any, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if value not in _CHOICES[name]:
            raise UsageError(f"{name}={value!r} is none of {', '.join(_CHOICES[name])}")


@dataclass(frozen=True)
class TowerTuning:
    """One tower of the encoder: where it starts and which of its weights move.

    Args:
        weights: ``pretrained``, or ``random`` ones of the same architecture.
        train: ``full``, ``bias``, ``layer_norm`` (weight and bias of every normalisation) or
            ``none``.
    """

    weights: Literal["pretrained", "random"] = "pretrained"
    train: Literal["full", "bias", "layer_norm", "none"] = "none"

    def __post_init__(self) -> None:
        _require_known(self, "weights", "train")


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter in every block of the image tower.

    Args:
        name: in :data:`ltcache.encoder.adapters.TOWER_ADAPTERS`. options: where not the default.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassifierChoice:
    """What turns features into logits.

    Args:
        head: ``texts`` (logit_scale times the cosine with each class text), or a name in
            :data:`ltcache.heads.HEADS` of a head that gradient steps train.
        options: of the head, where not the default.
        init: of a head: ``text``, ``class_mean``, ``random``, or ``probe`` (fitted to the
            features of the encoder before it is tuned: linear probe first, Kumar et al., ICLR
            2022); the first of several that the data allow, separated by ``|``.
        field: which features a head works on.
    """

    head: str = TEXTS
    options: Mapping[str, Any] = field(default_factory=dict)
    init: str = "text|class_mean"
    field: str = "pooled_or_embedding"

    def __post_init__(self) -> None:
        _require_known(self, "field")


@dataclass(frozen=True)
class ObjectiveTerm:
    """One summand of what is minimised.

    Args:
        name: one of :data:`IN_BATCH`, or of :data:`ltcache.losses.LOSSES`, on the logits.
        options: of the loss, where not the default. weight: its factor.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class TuningOptimisation:
    """How parameters are moved; the learning rate rises over the warm-up, then falls along a
    cosine to zero.

    Args:
        optimiser: ``sgd`` (Nesterov) or ``adamw``.
        lr: highest learning rate. weight_decay: on matrices and kernels, never on vectors.
        momentum: of ``sgd``.
        batch: images of a step, over all devices and micro-batches.
        epochs: passes over N images. warmup: epochs, may be a fraction; never more than half of
            the training.
        min_steps: where ``epochs`` passes are fewer steps than this, more passes are made, and the
            warm-up grows with them; 0 takes ``epochs`` at its word, as a setting
            ``optimisation.epochs=...`` does.
        precision: ``fp32``; ``bf16`` or ``fp16`` (GPU only) compute the towers in it, with float32
            weights, embeddings and loss.
        clip: largest norm of all gradients together, or None.
    """

    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-2
    weight_decay: float = 5e-4
    momentum: float = 0.9
    batch: int = 128
    epochs: int = 10
    warmup: float = 0.0
    min_steps: int = LEAST_STEPS
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip: float | None = None

    def __post_init__(self) -> None:
        _require_known(self, "optimiser", "precision")
        for name in ("batch", "epochs"):
            if getattr(self, name) < 1:
                raise UsageError(f"optimisation.{name}={getattr(self, name)} must be at least 1")
        if self.min_steps < 0:
            raise UsageError(f"optimisation.min_steps={self.min_steps} must be at least 0")
        if self.lr <= 0:
            raise UsageError(f"optimisation.lr={self.lr} must be positive")
        if self.warmup < 0:
            raise UsageError(f"optimisation.warmup={self.warmup:g} must be at least 0")
        if self.clip is not None and self.clip <= 0:
            raise UsageError(f"optimisation.clip={self.clip:g} must be positive, or none")

    def for_images(self, images: int) -> TuningOptimisation:
        """Return the schedule over N images, with as many epochs as it makes of them."""
        steps_per_epoch = max(1, -(-images // self.batch))
        epochs = epochs_to_make(self.epochs, self.min_steps, steps_per_epoch)
        return replace(self, epochs=epochs, warmup=self.warmup * epochs / self.epochs)


_WORDS = frozenset({"title", "reference", "fidelity", "differs", "equation", "mechanism"})
PARTS = ("image", "text", "adapters", "classifier")
"""Groups of parameters that may have a learning rate of their own; logit_scale is with text."""


@one_line
@dataclass(frozen=True)
class FineTuning(JsonRecord):
    """A named recipe that changes an encoder.

    Args:
        name: how users call it. title: one line on what it is.
        reference: the publication. fidelity, differs, mechanism: see
            :class:`ltcache.methods.Method`.
        equation: what is computed.
        image, text: the towers. adapters: in the image tower, in the order of their insertion.
        classifier: see :class:`ClassifierChoice`.
        terms: summands of what is minimised.
        template: of the class texts, with ``{}`` for the name; None: those of the manifest.
        statistic, statistic_options: what the features of the encoder before tuning are asked for
            a loss that needs it (:data:`ltcache.fit.statistics.STATISTICS`), or None.
        sampler: a name in :data:`ltcache.sampling.SAMPLERS`.
        augmentation, augmentation_options: a name in
            :data:`ltcache.finetune.augmentation.AUGMENTATIONS`.
        composites: probability that a batch is pasted into (CMO): a box of other images, with all
            classes equally often, covers part of its images, which then have two labels. In the
            epochs of :func:`ltcache.fit.composites_come`, which are fewer at either end than in the
            original where there are fewer than 24.
        eval_view: crops of an image whose logits are averaged when the tuned model is judged.
        logit_scale: ``fixed`` or ``trained``.
        lr_factors: one of :data:`PARTS` -> factor on its learning rate; 0 freezes it.
        optimisation: see :class:`TuningOptimisation`.
        average: weight of the tuned model in its average with the model it started from (WiSE-FT);
            ``auto`` chooses it on validation images; None: no average.
    """

    name: str
    title: str
    reference: str
    fidelity: Literal["exact", "analogue", "reconstruction"]
    differs: str
    equation: str = ""
    mechanism: str = ""
    image: TowerTuning = field(default_factory=TowerTuning)
    text: TowerTuning = field(default_factory=TowerTuning)
    adapters: tuple[AdapterChoice, ...] = ()
    classifier: ClassifierChoice = field(default_factory=ClassifierChoice)
    terms: tuple[ObjectiveTerm, ...] = (ObjectiveTerm("cross_entropy"),)
    template: str | None = None
    statistic: str | None = None
    statistic_options: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "instance"
    augmentation: str = "crop_flip"
    augmentation_options: Mapping[str, Any] = field(default_factory=dict)
    composites: float = 0.0
    eval_view: str = "center"
    logit_scale: Literal["fixed", "trained"] = "fixed"
    lr_factors: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 1.0))
    optimisation: TuningOptimisation = field(default_factory=TuningOptimisation)
    average: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        _require_known(self, "logit_scale")
        if unknown := set(self.lr_factors) - set(PARTS):
            raise UsageError(f"lr_factors.{min(unknown)}: known are {', '.join(PARTS)}")
        if self.average not in (None, AUTO) and not 0 <= float(self.average) <= 1:
            raise UsageError(f"average={self.average} must be within 0..1, auto or none")
        if not 0 <= self.composites <= 1:
            raise UsageError(f"composites={self.composites:g} is a probability, 0 to 1")
        if self.template is not None and "{}" not in self.template:
            raise UsageError(f"template {self.template!r} has no place for the class: write {{}}")
        if not self.terms:
            raise UsageError("loss: nothing to minimise; name at least one")
        if self.average is not None and "random" in (self.image.weights, self.text.weights):
            raise UsageError(
                "average mixes the tuned weights with those of the start: random ones are no model "
                "to go back to; set average=none"
            )

    @property
    def contrastive(self) -> bool:
        """Whether images are compared with texts of the classes of their batch."""
        return any(term.name in IN_BATCH for term in self.terms)

    @property
    def logit_terms(self) -> tuple[ObjectiveTerm, ...]:
        """The losses on logits over all classes."""
        return tuple(term for term in self.terms if term.name not in IN_BATCH)

    @property
    def scores_texts(self) -> bool:
        """Whether the classifier is the text tower, not a head."""
        return self.classifier.head == TEXTS

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        plain = {
            **super().to_dict(),
            "optimisation": written_optimisation(asdict(self.optimisation)),
        }
        if self.composites == 0:  # as records have it that know of none
            del plain["composites"]
        return plain

    def computed(self) -> JsonObject:
        """Return plain JSON of what determines a result: all but the words about it."""
        return without_words(self.to_dict())

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FineTuning:
        """Read what :meth:`to_dict` wrote."""
        given = {**plain, "optimisation": read_optimisation(plain["optimisation"])}
        return read_record(cls, given, name="the tuning's method")


def without_words(plain: Mapping[str, Any]) -> JsonObject:
    """Return the JSON of a fine-tuning without the words about it, which may be put better."""
    return {key: value for key, value in plain.items() if key not in _WORDS}
