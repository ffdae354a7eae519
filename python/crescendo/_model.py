"""A trained network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _crescendo
from ._settings import changes


def load(run_or_weights: Union[str, os.PathLike[str]], *, device: str = "auto", threads: Optional[int] = None) -> Model:
    """Loads a trained network.

    Args:
        run_or_weights: The folder of a run, of which the best weights by validation accuracy are loaded, or the last
            ones if it has no validation images; or a file of weights (``.safetensors``) that Crescendo wrote.
        device: "cpu", "cuda" ("cuda:1" for one of several cards), or "auto": the first card that can be used, otherwise
            the CPU.
        threads: Threads of the CPU; one for each core by default. Results do not depend on it.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, or holds no network of Crescendo's.
    """
    path = _crescendo.weights(os.fspath(run_or_weights), None)
    return Model._read(path, device, threads)


class Model:
    """A trained network with all it needs to classify images. `load` and `Run.model` make one.

    It can be pickled, and used by several threads, which take turns.
    """

    _path: str
    _content: bytes
    _device: str
    _threads: Optional[int]
    _network: _crescendo.Network

    def __init__(self) -> None:
        raise TypeError("crescendo.load makes a Model, from a run's folder or a file of weights")

    @classmethod
    def _read(cls, path: Union[str, os.PathLike[str]], device: str, threads: Optional[int]) -> Model:
        return _restore(str(path), Path(path).read_bytes(), device, threads)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the probabilities."""
        return self._network.classes

    @property
    def epoch(self) -> Optional[int]:
        """The epoch of its run after which the weights were saved, or within which if that was stopped."""
        return self._network.epoch

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class.

        Args:
            X: Images, uint8 (0 to 255) of shape [N, 32, 32, 3], [N, 3, 32, 32] or [N, 3072] (1024 values of red, then
                green, then blue).

        Returns:
            float64 of shape [N, classes]; each row adds up to 1.
        """
        return self._network.probabilities(_arrays.images(X))

    def predict(self, X: Any) -> NDArray[np.str_]:
        """The name of the most probable class of each image; see `predict_proba` for ``X``.

        Names are text: of labels that were numbers, their decimal digits.
        """
        probabilities = self.predict_proba(X)
        return np.array(self.classes)[probabilities.argmax(axis=1)]

    def score(self, X: Any, y: Any) -> float:
        """The accuracy on images whose classes are known, from 0 to 1.

        Args:
            X: See `predict_proba`.
            y: The name of each image's class, or the label that it was trained with.
        """
        x = _arrays.images(X)
        y = _arrays.labels(y, len(x))
        right = self.predict(x) == np.array([str(label) for label in y.tolist()], dtype=str)
        return float(right.mean())

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The weights and BatchNorm's statistics, under the names that they have in PyTorch: float32, and int64 for the
        numbers of batches."""
        return dict(_crescendo.Network.tensors(self._path, self._content))

    def save(self, path: Union[str, os.PathLike[str]]) -> None:
        """Writes the network to a file of weights (safetensors), which `load` and the command take. An existing file is
        replaced."""
        target = Path(path)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(handle, "wb") as file:
                file.write(self._content)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def export_onnx(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        flip: Optional[bool] = None,
        shift: Optional[int] = None,
        fixed: bool = False,
    ) -> None:
        """Writes an ONNX model, as ``crescendo export --onnx`` does: from uint8 images [N, height, width, 3] of any size,
        the input ``image``, to ``probabilities``, float32 [N, classes].

        Args:
            path: The file to write. It may exist only if it is a model that Crescendo wrote.
            flip: Whether the outputs for an image and its mirror image are averaged; by default as the recipe says.
            shift: By how many pixels images are shifted for more views that are averaged, 0 for none; by default as the
                recipe says.
            fixed: Whether images must be 32x32, for programs that cannot resize.
        """
        if shift is not None and not 0 <= shift < 32:
            raise ValueError(f"shift must be a whole number from 0 to 31, but it is {shift}")
        _crescendo.Network.export_onnx(self._path, self._content, os.fspath(path), flip, shift, fixed)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._path, self._content, self._device, self._threads)

    def __repr__(self) -> str:
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        return f"<crescendo.Model of {len(self.classes)} classes{epoch}>"


def _restore(path: str, content: bytes, device: str, threads: Optional[int]) -> Model:
    """The model in a file with this content."""
    model = object.__new__(Model)
    model._path, model._content, model._device, model._threads = path, content, device, threads
    model._network = _crescendo.Network(path, content, device, changes({"engine.threads": threads}))
    return model
