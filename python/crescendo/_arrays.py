"""Images and labels in NumPy's arrays."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

_LAYOUTS = {(32, 32, 3), (3, 32, 32), (3072,)}


def images(x: Any, name: str = "X") -> NDArray[np.uint8]:
    """The images as a contiguous array of uint8, in one of the layouts."""
    x = np.asarray(x)
    if x.ndim < 2 or x.shape[1:] not in _LAYOUTS:
        shape = "x".join(str(size) for size in x.shape) or "a single number"
        raise ValueError(
            f"{name} must have the shape [N, 32, 32, 3], [N, 3, 32, 32] or [N, 3072] (red, then green, then blue), but "
            f"it is {shape}: bring images of another size to 32x32 first"
        )
    if x.dtype != np.uint8:
        raise ValueError(
            f"{name} must be of type uint8, from 0 to 255, but it is {x.dtype}: convert it, for example numbers from 0 "
            f"to 1 with ({name} * 255).round().astype('uint8')"
        )
    return np.ascontiguousarray(x)


def labels(y: Any, count: int, name: str = "y") -> NDArray[Any]:
    """The labels of so many images as an array of one dimension."""
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"{name} must have one dimension, a label for each image, but its shape is {list(y.shape)}")
    if len(y) != count:
        raise ValueError(f"{name} has {len(y)} labels, but there are {count} images")
    if y.dtype.kind in "fc" and not np.isfinite(y).all():
        raise ValueError(f"{name} has labels that are infinite or not a number")
    return y


class Arrays(NamedTuple):
    """Data to train on, with labels as indices into the names of the classes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    classes: list[str]
    validation: Optional[tuple[NDArray[np.uint8], NDArray[np.uint16]]]


def encoded(x: Any, y: Any, validation: Optional[tuple[Any, Any]] = None) -> tuple[Arrays, NDArray[Any]]:
    """The data, and its classes: the different labels in ascending order."""
    x = images(x)
    y = labels(y, len(x))
    try:
        classes, indices = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError("the labels in y cannot be sorted: give labels of one kind, numbers or text") from error
    held_out = None
    if validation is not None:
        vx = images(validation[0], "the validation images")
        vy = labels(validation[1], len(vx), "the validation set")
        held_out = (vx, _indices(vy, classes))
    names = [str(label) for label in classes.tolist()]
    return Arrays(x, indices.astype(np.uint16), names, held_out), classes


def _indices(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.uint16]:
    """The index of each label in the classes."""
    known = {label: index for index, label in enumerate(classes.tolist())}
    unknown = sorted({repr(label) for label in y.tolist() if label not in known})
    if unknown:
        raise ValueError(f"the validation set has labels that y does not have: {', '.join(unknown[:10])}")
    return np.array([known[label] for label in y.tolist()], dtype=np.uint16)
