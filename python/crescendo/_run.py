"""The folder of a run."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray

from . import _crescendo, _history
from ._model import Model


class Run:
    """A run: a folder with its recipe, tables, weights and report. `train` and `resume` return one.

    Args:
        folder: The folder of a run that there is.

    Raises:
        ValueError: If there is no run.
    """

    def __init__(self, folder: Union[str, os.PathLike[str]]) -> None:
        self._folder = Path(folder)
        if not (self._folder / "recipe.toml").is_file():
            raise ValueError(f"{self._folder}: is not a run folder: give one that crescendo.train created")

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """The epochs so far: an array for each column of ``epochs.csv``, such as ``train_loss`` and
        ``validation_accuracy`` (from 0 to 1). Whole numbers are int64, others float64, and NaN where something was not
        measured. ``pandas.DataFrame`` takes it."""
        return _history.read(self._folder)

    def model(self, epoch: Optional[int] = None, *, device: str = "auto", threads: Optional[int] = None) -> Model:
        """The network with the weights after an epoch; by default with the best ones by validation accuracy, or the
        last ones if there are no validation images. See `load` for the other parameters.

        Raises:
            ValueError: If there are no weights of that epoch: which ones are kept is up to ``train.checkpoint_every``.
        """
        return Model._read(_crescendo.weights(self._folder, epoch), device, threads)

    def __fspath__(self) -> str:
        return str(self._folder)

    def __repr__(self) -> str:
        return f"crescendo.Run({str(self._folder)!r})"

    def _repr_html_(self) -> str:
        """The run in a notebook: its last numbers, and the curves of its accuracies."""
        history = self.history
        texts = [f"<b>{html.escape(str(self._folder))}</b>", f"{len(history['epoch'])} epochs"]
        lines = []
        for name, (text, colour) in _CURVES.items():
            values = history.get(name, np.array([]))
            known = np.isfinite(values)
            if known.any():
                texts.append(f'<span style="color:{colour}">{text} {100 * values[known][-1]:.2f} %</span>')
                lines.append(_line(history["epoch"][known] / history["epoch"][-1], values[known], colour))
        return f"<div>{', '.join(texts)}<br>{_chart(lines)}</div>"


# The accuracies that are shown, by their columns, and their colours.
_CURVES = {
    "train_accuracy": ("training accuracy", "#777777"),
    "validation_accuracy": ("validation accuracy", "#1f77b4"),
    "test_accuracy": ("test accuracy", "#d62728"),
}
_WIDTH, _HEIGHT = 400, 160


def _line(x: NDArray[Any], y: NDArray[Any], colour: str) -> str:
    """A curve of values from 0 to 1."""
    points = " ".join(f"{_WIDTH * a:.1f},{_HEIGHT * (1 - b):.1f}" for a, b in zip(x, y))
    end = f'<circle cx="{_WIDTH * x[-1]:.1f}" cy="{_HEIGHT * (1 - y[-1]):.1f}" r="3" fill="{colour}"/>'
    return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>{end}'


def _chart(lines: list[str]) -> str:
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="accuracy, from 0 to 100 %, over epochs" '
        f'style="border-left:1px solid;border-bottom:1px solid;overflow:visible">{"".join(lines)}</svg>'
    )
