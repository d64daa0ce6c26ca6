"""Raw network outputs into predictions, per task kind. No torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slimtask.tasks import TaskSpec


def decode(task: TaskSpec, output: np.ndarray) -> np.ndarray:
    """Return the prediction for one image from the raw ``output`` ([1, channels, H, W] or [1, channels]) of ``task``.

    segmentation: class index [H, W] (uint8, or int32 above 256 classes); depth: metres [H, W]; normals: unit vectors
    [3, H, W]; edges and saliency: probability [H, W]; keypoints: heat maps as they are [channels, H, W];
    classification: probabilities [channels] that sum to 1; multilabel: a probability per label [channels].

    What is decoded already stays as it is: the probabilities of a task whose ``unit`` is "probability", class numbers
    (integers, [1, 1, H, W] or [1, H, W]), and booleans, which are the probabilities 0 and 1.
    """
    if output.dtype.kind in "iu":
        return _as_labels(output[0].reshape(output.shape[-2:]))
    image = np.asarray(output[0], np.float32)
    decided = task.unit == "probability" or output.dtype == bool
    decoders = _DECIDED if decided else _DECODERS
    return decoders[task.kind](image) if task.kind in decoders else image


def _labels(image: np.ndarray) -> np.ndarray:
    return np.asarray(image.argmax(axis=0), np.uint8 if len(image) <= 256 else np.int32)


def _as_labels(classes: np.ndarray) -> np.ndarray:
    small = classes.size == 0 or (classes.min() >= 0 and classes.max() <= 255)
    return classes.astype(np.uint8 if small else np.int32)


def _plane(image: np.ndarray) -> np.ndarray:
    return np.asarray(image[0])


def _unit(image: np.ndarray) -> np.ndarray:
    return np.asarray(image / np.maximum(np.linalg.norm(image, axis=0, keepdims=True), 1e-12))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max())
    return np.asarray(exponent / exponent.sum())


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    # tanh, unlike exp(-x), overflows on neither side
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logit)))


def _probability(image: np.ndarray) -> np.ndarray:
    return _sigmoid(image[0])


_DECODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "segmentation": _labels,
    "depth": _plane,
    "normals": _unit,
    "edges": _probability,
    "saliency": _probability,
    "classification": _softmax,
    "multilabel": _sigmoid,
}
_DECIDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "segmentation": _labels,
    "depth": _plane,
    "normals": _unit,
    "edges": _plane,
    "saliency": _plane,
}
