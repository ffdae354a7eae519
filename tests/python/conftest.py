"""Toy images and settings with which everything takes a second or two."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

# A network of three times four channels.
SMALL = {"network.widths": [4, 4, 4], "batch.steps": [[1, 10]], "optimizer.learning_rate": 0.02}
# The same for a policy of one's own.
BY_POLICY = {key: value for key, value in SMALL.items() if key != "batch.steps"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test runs in a folder of its own, without a card, whose results are others than the CPU's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CRESCENDO_DATA", raising=False)
    return tmp_path


@pytest.fixture
def images():
    """60 images of three classes: stripes across, down and diagonally, with noise."""
    labels = np.arange(60) % 3
    row, column = np.mgrid[:32, :32]
    stripes = np.stack([row % 8 < 4, column % 8 < 4, (row + column) % 8 < 4])
    noise = np.random.default_rng(0).integers(0, 100, (60, 32, 32, 3))
    return (100 * stripes[labels][..., None] + noise).astype(np.uint8), labels


@pytest.fixture
def needs():
    """Skips a test, by name, where a package is not installed."""

    def check(*packages):
        for package in packages:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")

    return check


def program():
    """The command ``crescendo`` of this environment."""
    return str(Path(sys.executable).with_name("crescendo"))


def best_or_last(folder):
    weights = Path(folder) / "weights"
    best = weights / "best.safetensors"
    return (best if best.exists() else weights / "last.safetensors").read_bytes()
