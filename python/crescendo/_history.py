"""The epochs of a run as arrays."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Columns of whole numbers; the others are floating-point numbers.
_WHOLE = {"epoch", "updates", "batch_size"}
# What a policy is told, and of what kind an array without rows is.
_METRICS = (
    "epoch", "updates", "batch_size", "learning_rate", "train_loss", "train_accuracy", "validation_loss",
    "validation_accuracy", "test_accuracy", "noise_scale",
)  # fmt: skip


def columns(rows: Iterable[Mapping[str, Any]], names: Iterable[str] = _METRICS) -> dict[str, NDArray[Any]]:
    """An array for each column of the rows; what is not known is NaN."""
    rows = list(rows)
    return {name: _column(name, [row.get(name) for row in rows]) for name in names}


def _column(name: str, values: list[Any]) -> NDArray[Any]:
    if name in _WHOLE:
        return np.array([int(value) for value in values], dtype=np.int64)
    return np.array([np.nan if value in (None, "") else float(value) for value in values], dtype=np.float64)


def read(folder: Path) -> dict[str, NDArray[Any]]:
    """The epochs of the run in a folder."""
    path = folder / "epochs.csv"
    if not path.exists():
        return columns([])
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        return columns(table, table.fieldnames or _METRICS)
