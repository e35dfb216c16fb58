"""The methods as a scikit-learn classifier; :func:`ltcache.fit.fit_head` does the learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from ltcache.adjustments import Adjustment
from ltcache.errors import FitError, UsageError
from ltcache.fit import FitOptions, LabelledRows, fit_head, require_classes
from ltcache.heads import HeadContext, predict_logits, predicted_labels
from ltcache.methods import Method, method_by_name, override
from ltcache.metrics import named_units

_NESTED = "settings__"


class LongTailClassifier(ClassifierMixin, BaseEstimator):
    """A long-tail method on features, with the interface of scikit-learn.

    Features are those of a cache, ``cache.features("train")[:, 0]``, or any others. A fit with an
    integer ``random_state`` gives the same parameters as ``fit_head`` with that seed, and again the
    same on the same machine.

    ``CalibratedClassifierCV`` around a method that balances classes learns the class prior of its
    calibration rows and so takes it back in: on FGVC-Aircraft cut to a long tail (features of CLIP
    ViT-B/32, logit adjustment) mean accuracy per class fell from 34.6 to 29.6 %. Calibrate to equal
    classes instead, which kept 34.0 %::

        weights = sklearn.utils.class_weight.compute_sample_weight("balanced", y)
        CalibratedClassifierCV(LongTailClassifier()).fit(X, y, sample_weight=weights)

    Args:
        method: a name that ``ltcache methods`` lists, or a :class:`ltcache.methods.Method`.
        settings: dotted key -> value, as of :func:`ltcache.methods.override`, such as
            ``{"loss.tau": 0.5}``. A search may also vary one key alone: ``settings__loss.tau``.
        max_epochs: upper limit on the epochs of each stage that trains; None: the method's own
            schedule: for most about 1,500 steps, for none fewer than 96, however few the rows.
        hold_out: choose epochs and what the method leaves open on a stratified tenth of the rows,
            then fit all rows with that; False: keep the last epoch and the method's own values,
            in half the time.
        logit_scale: of the encoder, exponentiated, for methods that use class texts at its scale.
        random_state: of initialisation, sampling and the held-out tenth. An integer, a
            ``numpy.random.RandomState``, or None for another fit each time.
        device: where to train, as torch names it; predictions are made on the CPU.

    Attributes:
        classes_: labels, sorted, (C,).
        class_counts_: training rows of each class, (C,): sums of weights of mean 1 where there are
            sample weights.
        n_features_in_: D.
        feature_names_in_: names of the columns, (D,), where ``X`` had any.
        head_, transform_: what was fitted. They hold the float32 parameters of the fit as float64,
            so that a row's prediction does not depend on the rows beside it.
        history_: one record per epoch.
        choices_: what was chosen in each stage.
        tuned_on_: in words, what chose it.
        residual_prior_: exponent a of the class prior n**a that the scores still carry; None: it
            cannot be stated.

    Example:
        >>> from ltcache.cache import open_cache
        >>> cache = open_cache("cache")
        >>> features, labels = cache.features("train")[:, 0], cache.labels("train")
        >>> classifier = LongTailClassifier("logit-adjustment", random_state=0)
        >>> classifier.fit(features, labels).predict(cache.features("test")[:, 0]).shape
        (8,)
    """

    def __init__(
        self,
        method: str | Method = "logit-adjustment",
        *,
        settings: Mapping[str, Any] | None = None,
        max_epochs: int | None = None,
        hold_out: bool = True,
        logit_scale: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.method = method
        self.settings = settings
        self.max_epochs = max_epochs
        self.hold_out = hold_out
        self.logit_scale = logit_scale
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        text_features: Any = None,
        units: Any = None,
    ) -> LongTailClassifier:
        """Fit the method.

        Args:
            X: features (N, D), finite; float32 inside.
            y: labels (N,), of any type that sorts.
            sample_weight: (N,), not negative, or None for equal ones; only ratios matter. They
                weigh the loss and make the class prior. A row of weight 0 is left out.
            text_features: text feature of each class, brought to unit length: (C, D') in the order
                of ``classes_``, or a mapping from label to (D',). A mapping also serves folds of a
                cross-validation that lack a class. Request it through scikit-learn's metadata
                routing with ``set_fit_request(text_features=True)``.
            units: which rows show the same thing, (N,) numbers or texts; they are held out
                together. A row whose unit is missing (None, NaN, an empty text) is its own; None:
                every row is.

        Raises:
            ValueError: what scikit-learn refuses, such as NaN or lengths that do not agree.
            FitError: data that the method cannot be fitted with, such as one class.
            UsageError: an unknown method or setting.
        """
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        rows = _rows(X, labels, sample_weight, units)
        self.class_counts_ = self._counts(rows)
        fitted = fit_head(
            self._method(len(rows)),
            rows,
            HeadContext(
                dim=X.shape[1],
                num_classes=len(self.classes_),
                class_counts=torch.from_numpy(self.class_counts_),
                text_features=self._texts(text_features),
                logit_scale=self.logit_scale,
            ),
            seed=self._seed(),
            options=FitOptions(device=self.device),
            choose=self.hold_out,
        )
        self.head_, self.transform_ = fitted.head.double(), fitted.transform.double()
        self.history_, self.choices_ = fitted.history, fitted.choices
        self.tuned_on_, self.residual_prior_ = fitted.tuned_on, fitted.residual_prior
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return logits (N, C) for features (N, D); of two classes the difference, (N,)."""
        logits = self._logits(X)
        binary = logits.shape[1] == 2
        return (logits[:, 1] - logits[:, 0] if binary else logits).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the softmax of the logits, (N, C), for features (N, D)."""
        return self._logits(X).softmax(dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label, (N,), for features (N, D)."""
        best = predicted_labels(self._logits(X)).numpy()
        return cast(np.ndarray, self.classes_[best])

    def set_params(self, **params: Any) -> LongTailClassifier:
        """Set parameters; ``settings__KEY`` changes one setting and leaves the others."""
        nested = {key: params.pop(key) for key in list(params) if key.startswith(_NESTED)}
        super().set_params(**params)
        if nested:
            changed = {key.removeprefix(_NESTED): value for key, value in nested.items()}
            self.settings = {**(self.settings or {}), **changed}
        return self

    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        features = torch.from_numpy(np.require(X, np.float64, ["C", "W"]))
        return predict_logits(self.head_, self.transform_(features))

    def _counts(self, rows: LabelledRows) -> np.ndarray:
        """Return the (weighted) rows of each class."""
        weights = None if rows.weights is None else rows.weights.numpy()
        counts = np.bincount(rows.labels.numpy(), weights, minlength=len(self.classes_))
        require_classes(counts, self.classes_)
        return counts

    def _method(self, rows: int) -> Method:
        """Return the method with its settings and the limit on its epochs."""
        if self.max_epochs is not None and self.max_epochs < 1:
            raise UsageError(f"max_epochs={self.max_epochs} must be at least 1")
        method = method_by_name(self.method) if isinstance(self.method, str) else self.method
        method = override(method, self.settings)
        for kind in (stage.head_kind() for stage in method.stages):
            if kind is not None and issubclass(kind, Adjustment) and kind.transductive:
                raise UsageError(
                    f"method {method.name} learns from the rows that it predicts (transductive), "
                    "and a scikit-learn classifier predicts each row by itself: take one that does "
                    f"without, such as {kind.instead}, or fit on a cache with fit_adapter"
                )
        most = self.max_epochs
        if most is None:
            return method
        stages = tuple(stage.with_most_epochs(rows, most) for stage in method.stages)
        return replace(method, stages=stages)

    def _texts(self, text_features: Any) -> Tensor | None:
        """Return unit text features in the order of the classes, (C, D')."""
        if text_features is None:
            return None
        if isinstance(text_features, Mapping):
            if missing := [label for label in self.classes_ if label not in text_features]:
                raise FitError(f"text_features lack {len(missing)} classes, such as {missing[0]}")
            text_features = [text_features[label] for label in self.classes_]
        texts = check_array(text_features, dtype=np.float64, input_name="text_features")
        if len(texts) != len(self.classes_):
            raise FitError(
                f"{len(texts)} text_features for {len(self.classes_)} classes; where folds lack "
                "classes, give a mapping from label to text feature"
            )
        lengths = np.linalg.norm(texts, axis=1, keepdims=True)
        if not lengths.all():
            raise FitError(f"the text feature of class {self.classes_[lengths.argmin()]} is zero")
        return torch.from_numpy((texts / lengths).astype(np.float32))

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _rows(X: np.ndarray, labels: np.ndarray, sample_weight: Any, units: Any) -> LabelledRows:
    """Return the rows that weigh anything, with weights of mean 1 (None: equal ones)."""
    if units is not None:
        units = named_units(units)
        check_consistent_length(X, units)
    weights = None
    if sample_weight is not None:
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        keep = weights > 0
        if not keep.any():
            raise FitError("every sample weight is zero")
        X, labels, weights = X[keep], labels[keep], weights[keep]
        units = None if units is None else units[keep]
        weights = torch.from_numpy((weights / weights.mean()).astype(np.float32))
    # a copy where X is read-only or of another type: torch refuses to share such memory
    features = torch.from_numpy(np.require(X, np.float32, ["C", "W"]))
    return LabelledRows(features, torch.from_numpy(labels.astype(np.int64)), weights, units)
