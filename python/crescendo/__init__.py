"""Trains classifiers of small images (32x32 pixels, RGB) on the CPU or an NVIDIA card.

- `Classifier`: an estimator in scikit-learn's manner, from NumPy's arrays to predictions.
- `train`, `resume`: a run of a recipe, as the command ``crescendo train`` makes it, with its folder, a `Run`.
- `load`: the `Model` in a run's folder or in a file of weights.

The command ``crescendo`` is in this package too: ``crescendo --help``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._classifier import Classifier
    from ._crescendo import VERSION as __version__
    from ._model import Model, load
    from ._run import Run
    from ._train import resume, train

__all__ = ["Classifier", "Model", "Run", "__version__", "load", "resume", "train"]

# Names are imported when they are first used: the command needs none of them, nor NumPy.
_PLACES = {
    "Classifier": ("_classifier", "Classifier"),
    "Model": ("_model", "Model"),
    "Run": ("_run", "Run"),
    "__version__": ("_crescendo", "VERSION"),
    "load": ("_model", "load"),
    "resume": ("_train", "resume"),
    "train": ("_train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
