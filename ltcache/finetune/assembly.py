"""From a fine-tuning's description to what is trained: model, images, texts, head, loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltcache.encoder import fields_of
from ltcache.encoder.adapters import (
    TOWER_ADAPTERS,
    AdapterContext,
    AdapterSpec,
    insert_adapters,
    reset_tower,
    set_checkpointing,
    set_trainable,
)
from ltcache.errors import FitError
from ltcache.finetune.augmentation import AUGMENTATIONS
from ltcache.finetune.averaging import start_of
from ltcache.finetune.batches import ImageBatches
from ltcache.finetune.classifier import ClassTexts
from ltcache.finetune.consistency import require_consistent
from ltcache.finetune.loop import encode_split, part_of
from ltcache.finetune.objective import SentenceContrast, TuningObjective
from ltcache.finetune.processes import ProcessRanks
from ltcache.finetune.sentences import DrawnSentences, FrozenTeacher
from ltcache.finetune.spec import SENTENCES, FineTuning
from ltcache.finetune.start import StartValues
from ltcache.finetune.step import EMBEDDING, FieldEmbedder, TrainingStep, trained_parameters
from ltcache.fit import (
    LabelledRows,
    TrainingFit,
    choose_by,
    require_classes,
    training_fit,
)
from ltcache.heads import HEADS, Head, HeadContext
from ltcache.images import Preprocessing
from ltcache.manifest import Manifest
from ltcache.methods import FIELDS, require_name
from ltcache.records import one_line
from ltcache.texts import NAMED_TEMPLATES, class_sentences, encode_prompts, template_set

if TYPE_CHECKING:
    from ltcache.encoder import Encoder

_LOOKED_AT = 64  # images judged in one pass
_JUDGED = 1024  # training images that the result is judged on, at most


@dataclass(frozen=True)
class ComputeOptions:
    """How to compute, without effect on what: but for last bits, results are the same.

    Attributes:
        workers: loading processes of each split; None: as many as there are processors to spare.
        checkpointing: recompute activations on the way back. compiled: use torch.compile.
    """

    workers: int | None = None
    checkpointing: bool = False
    compiled: bool = False


@one_line
@dataclass(frozen=True, eq=False)
class TrainingParts:
    """All parts of a training.

    Attributes:
        step: what trains. batches: of the training split. val: of the validation split, or None.
        plain: makes batches of the training split without augmentation.
        context: of heads, with the class texts of the start.
        texts, templates: the class texts, and what they are made of; None and () for an encoder
            without a text tower.
        init: the initialisation of the head that was taken.
        residual_prior: exponent of the class prior that trained logits carry; None: unknown.
        start: tensors to average with, or empty.
        groups: the manifest's group setting. trained: number of trained parameters.
    """

    tuning: FineTuning
    step: TrainingStep
    batches: ImageBatches
    val: ImageBatches | None
    plain: Callable[[], ImageBatches]
    context: HeadContext
    texts: ClassTexts | None
    templates: tuple[str, ...]
    init: str
    residual_prior: float | None
    start: Mapping[str, Tensor]
    groups: Mapping[str, Any] | None
    trained: int

    def __enter__(self) -> TrainingParts:
        """Nothing is opened before the first image."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the loading processes."""
        self.batches.close()
        if self.val is not None:
            self.val.close()

    @property
    def failures(self) -> dict[str, str]:
        """Images of training and validation that could not be read so far, of this rank:
        uri -> reason."""
        judged = {} if self.val is None else self.val.failures
        return {**self.batches.failures, **judged}

    @torch.no_grad()
    def classifier(self) -> Head:
        """Return what predicts now: the head, or the class texts as a head."""
        if self.step.head is not None:
            return self.step.head.eval()
        assert self.texts is not None and self.step.logit_scale is not None
        context = HeadContext(
            dim=self.context.dim,
            num_classes=self.context.num_classes,
            class_counts=self.context.class_counts,
            text_features=self.texts(),
            logit_scale=float(self.step.logit_scale),
        )
        return HEADS["zero_shot"](context).to(self.step.device).eval()

    def judge(self) -> dict[str, float]:
        """Return scores of the validation images, see :func:`ltcache.fit.train.choose_by`."""
        assert self.val is not None
        rows, labels = encode_split(self.step.embed, self.val, self.step.field)
        return choose_by(self.classifier(), LabelledRows(rows, labels))

    def training_fit(self, epoch: int, seed: int) -> TrainingFit:
        """Judge the classifier as it is, of ``epoch``, on training images as they are, drawn by
        ``seed`` where there are many."""
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.batches), generator=draw)[:_JUDGED]
        with self.plain() as plain:
            rows, labels = encode_split(self.step.embed, plain, self.step.field, order)
        return training_fit(
            self.classifier(), LabelledRows(rows, labels), epoch * self.batches.steps()
        )


def assemble(
    manifest: Manifest,
    tuning: FineTuning,
    parent: Encoder,
    place: ProcessRanks,
    *,
    seed: int,
    means: ComputeOptions,
    allow_double_correction: bool = False,
) -> TrainingParts:
    """Build a training.

    Args:
        manifest: of the images. tuning: with every setting written out.
        parent: the encoder to begin with, which stays as it is.
        place: where to compute.

    Raises:
        UsageError: settings that do not go together. FitError: data that cannot be trained on.
    """
    require_consistent(tuning, parent)
    if not manifest.num_classes:
        raise FitError(f"{manifest.name}: there are no classes to tune for")
    require_classes(manifest.class_counts("train"), manifest.classes.names)
    model = _model(manifest, tuning, parent, seed).to(place.device)
    if means.checkpointing:
        set_checkpointing(model)
    field = _field(tuning, parent)
    templates = _templates(manifest, tuning, parent)
    texts = _class_texts(manifest, tuning, model, parent, templates, place.device)
    trained_texts = texts if tuning.scores_texts or tuning.contrastive else None
    embed = FieldEmbedder(
        model,
        fields := fields_of(model),
        tuple(dict.fromkeys((field, EMBEDDING) if trained_texts is not None else (field,))),
        parent.preprocessing,
        device=place.device,
        channels_last=_channels_last(model, parent, tuning, place),
        precision=tuning.optimisation.precision,
        compiled=means.compiled,
    )
    images = _ImageSource(manifest, parent, place, means, seed)
    projection = None
    if field != EMBEDDING and fields.projection is not None:
        projection = torch.from_numpy(fields.projection.weight)
    with torch.no_grad():
        rows = None if texts is None else texts().cpu()
    context = HeadContext(
        dim=parent.dims[field],
        num_classes=manifest.num_classes,
        class_counts=torch.from_numpy(manifest.class_counts("train")),
        text_features=rows,
        projection=projection,
        logit_scale=parent.logit_scale,
    )

    def features() -> LabelledRows:
        with images.plain("train") as plain:
            found, labels = encode_split(embed, plain, field)
        return LabelledRows(found.cpu(), labels.cpu())

    start = StartValues(
        tuning, context, features, seed=seed, allow_double_correction=allow_double_correction
    )
    counts = start.counts()
    estimated = start.estimated()
    head, init = start.head()
    objective = TuningObjective(tuning.terms, counts, estimated=estimated, seed=seed)
    step = TrainingStep(
        embed, objective, head=head, field=field, texts=trained_texts,
        sentences=_drawn_sentences(manifest, tuning, model, parent, templates, embed, seed),
    ).to(place.device)  # fmt: skip
    _freeze(step, tuning, parent.preprocessing)
    return TrainingParts(
        tuning,
        step,
        images.augmented(tuning),
        images.plain("val") if manifest.class_counts("val").sum() else None,
        lambda: images.plain("train"),
        context,
        texts,
        templates,
        init,
        start.residual_prior(estimated),
        start_of(step) if tuning.average is not None else {},
        manifest.groups,
        sum(parameter.numel() for parameter in trained_parameters(step).values()),
    )


@dataclass(frozen=True, eq=False)
class _ImageSource:
    """Where batches of images come from."""

    manifest: Manifest
    parent: Encoder
    place: ProcessRanks
    means: ComputeOptions
    seed: int

    def augmented(self, tuning: FineTuning) -> ImageBatches:
        kind = AUGMENTATIONS[tuning.augmentation]
        return self._of("train", kind(**tuning.augmentation_options), tuning.optimisation.batch)

    def plain(self, split: str) -> ImageBatches:
        return self._of(split, AUGMENTATIONS["none"](), _LOOKED_AT * self.place.ranks)

    def _of(self, split: str, augmentation: Any, batch: int) -> ImageBatches:
        return ImageBatches(
            self.manifest,
            split,
            self.parent.preprocessing,
            augmentation,
            batch=batch,
            seed=self.seed,
            workers=self.means.workers,
            rank=self.place.rank,
            ranks=self.place.ranks,
            pin=self.place.on_gpu,
        )


def _templates(manifest: Manifest, tuning: FineTuning, parent: Encoder) -> tuple[str, ...]:
    if not parent.has_texts:
        return ()
    return tuple(manifest.templates) if tuning.template is None else (tuning.template,)


def _class_texts(
    manifest: Manifest,
    tuning: FineTuning,
    model: Any,
    parent: Encoder,
    templates: Sequence[str],
    device: torch.device,
) -> ClassTexts | None:
    """Return the class texts by the text tower of the model to train, or None where it has none."""
    if not parent.has_texts:
        return None
    sentences = class_sentences(templates, list(manifest.classes.names))
    trains = tuning.text.train != "none"
    return ClassTexts(model, parent.tokenizer, sentences, trains=trains, device=device)


def _model(manifest: Manifest, tuning: FineTuning, parent: Encoder, seed: int) -> Any:
    """Return the model to train, on the CPU: random towers, adapters, and what may move."""
    model = copy.deepcopy(parent.model)
    for name, tower in (("image", tuning.image), ("text", tuning.text)):
        if tower.weights == "random":
            reset_tower(model, name, seed, architecture=parent.identity["architecture"])
    needs = {part for a in tuning.adapters for part in TOWER_ADAPTERS[a.name].needs}
    context = AdapterContext(
        manifest.num_classes,
        _descriptions(manifest, parent) if "descriptions" in needs else None,
    )
    specs = [AdapterSpec(adapter.name, _stated(adapter.options)) for adapter in tuning.adapters]
    insert_adapters(model, specs, seed=seed, context=context)
    set_trainable(
        model,
        image=tuning.image.train,
        text=tuning.text.train,
        logit_scale=tuning.logit_scale == "trained",
    )
    return model


def _stated(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options that have a value; the others follow from the data."""
    return {name: value for name, value in options.items() if value is not None}


def _descriptions(manifest: Manifest, parent: Encoder) -> Tensor:
    """Return the mean embedding of each class's descriptions by the text tower as it was, (C, D);
    its templates stand in for a class without any."""
    names = list(manifest.classes.names)
    sentences = class_sentences(manifest.templates, names, manifest.descriptions)
    return torch.from_numpy(encode_prompts(parent, sentences).mean)


def _drawn_sentences(
    manifest: Manifest,
    tuning: FineTuning,
    model: Any,
    parent: Encoder,
    templates: Sequence[str],
    embed: FieldEmbedder,
    seed: int,
) -> DrawnSentences | None:
    """Return what draws a sentence for each image, where a loss wants that, with its teacher.

    Args:
        templates: of the class texts. embed: the image tower that is tuned.
    """
    term = next((term for term in tuning.terms if term.name == SENTENCES), None)
    if term is None:
        return None
    contrast, device = SentenceContrast(**term.options), embed.device
    sentences = _all_sentences(manifest, templates, contrast.templates)
    trains = tuning.text.train != "none"
    texts = ClassTexts(model, parent.tokenizer, sentences, trains=trains, device=device)
    if not contrast.distillation:
        return DrawnSentences(texts, seed=seed)
    frozen = copy.deepcopy(parent.model).to(device).eval().requires_grad_(False)
    tower = FieldEmbedder(
        frozen, fields_of(frozen), (EMBEDDING,), parent.preprocessing, device=device,
        precision=embed.precision,
    )  # fmt: skip
    known = ClassTexts(frozen, parent.tokenizer, sentences, trains=False, device=device)
    teacher = FrozenTeacher(tower, known, float(frozen.logit_scale.exp()))
    return DrawnSentences(texts, teacher, seed)


def _all_sentences(manifest: Manifest, templates: Sequence[str], named: str) -> list[list[str]]:
    """Return all sentences of each class: of templates, of a named set, and its descriptions."""
    require_name("loss.templates", named, {**NAMED_TEMPLATES, "none": ()})
    names = list(manifest.classes.names)
    templates = (*templates, *(() if named == "none" else template_set(named)))
    sets = [class_sentences(templates, names, given) for given in ({}, manifest.descriptions)]
    return [list(dict.fromkeys(said)) for said in map(chain, *sets)]


def _field(tuning: FineTuning, parent: Encoder) -> str:
    """Return the field that the classifier works on."""
    if tuning.scores_texts:
        return EMBEDDING
    for name in FIELDS[tuning.classifier.field]:
        if name in parent.dims:
            return name
    raise FitError(
        f"classifier.field={tuning.classifier.field}: the encoder has {', '.join(parent.dims)}"
    )


def _channels_last(model: Any, parent: Encoder, tuning: FineTuning, place: ProcessRanks) -> bool:
    """Lay convolutional towers out channels last, where that is faster; see
    :meth:`ltcache.encoder.Encoder.use_channels_last`."""
    if parent.numerics()["memory_format"] != "channels_last":
        return False
    faster = not place.on_gpu or tuning.optimisation.precision != "fp32"
    layout = torch.channels_last if faster else torch.contiguous_format  # the parent's was a CPU's
    model.visual.to(memory_format=layout)
    return faster


def _freeze(step: TrainingStep, tuning: FineTuning, preprocessing: Preprocessing) -> None:
    """Freeze parts whose learning rate has the factor 0, and what no loss reaches.

    Raises:
        FitError: nothing is left to train.
    """
    for name, parameter in step.named_parameters():
        if tuning.lr_factors[part_of(name)] == 0:
            parameter.requires_grad_(False)
    _freeze_unreached(step, preprocessing)
    if not trained_parameters(step):
        raise FitError(
            "nothing trains: both towers are frozen, and there is neither adapter nor head (this "
            "is zero-shot; ltcache zero-shot gives its numbers)"
        )


def _freeze_unreached(step: TrainingStep, preprocessing: Preprocessing) -> None:
    """Freeze weights that what is trained does not depend on, such as the projection behind
    ``pooled``: they would stay as they are, and several processes would wait for their gradients.
    """
    step.eval()
    grey = torch.full((1, 3, *preprocessing.size), 127, dtype=torch.uint8, device=step.device)
    fields = step.embed(grey)
    reached = [rows.sum() for rows in fields.values()]
    if step.texts is not None:
        label = torch.zeros(1, dtype=torch.long)
        assert step.logit_scale is not None
        reached += [step.texts(label).sum(), step.logit_scale.sum()]
    if step.head is not None:
        reached.append(step.head(fields[step.field]).sum())
    total = torch.stack(reached).sum()
    if total.requires_grad:
        total.backward()
    for parameter in step.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None
