"""What `Classifier` has of scikit-learn's base classes, where scikit-learn is not installed."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np


class BaseEstimator:
    """An estimator whose parameters are those of its constructor."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, by name."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Any:
        """Sets parameters."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"there is no parameter {name}; the parameters are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        params = self.get_params().items()
        changed = [f"{name}={value!r}" for name, value in params if value != defaults[name].default]
        return f"{type(self).__name__}({', '.join(changed)})"


class ClassifierMixin:
    """A classifier's score."""

    def score(self, X: Any, y: Any) -> float:
        """The accuracy, from 0 to 1."""
        return float(np.mean(self.predict(X) == np.asarray(y)))  # type: ignore[attr-defined]


class NotFittedError(ValueError, AttributeError):
    """An estimator is used before it was fitted."""
