"""An estimator in scikit-learn's manner."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from numpy.typing import NDArray

from . import _arrays
from ._model import Model
from ._settings import changes
from ._train import Callback, Policy, Request, run

if TYPE_CHECKING:
    from ._estimator import BaseEstimator, ClassifierMixin, NotFittedError
else:
    try:
        from sklearn.base import BaseEstimator, ClassifierMixin
        from sklearn.exceptions import NotFittedError
    except ImportError:
        from ._estimator import BaseEstimator, ClassifierMixin, NotFittedError


class Classifier(ClassifierMixin, BaseEstimator):
    """A classifier of images of 32x32 pixels, trained as a recipe says.

    Where scikit-learn is installed, it is one of its estimators: for pipelines, ``cross_val_score``, ``GridSearchCV``.

    Args:
        recipe: The name of a built-in recipe (``crescendo recipes`` lists them) or the path of a TOML file.
        epochs: Passes over the training images; by default the recipe's.
        seed: Seed of the initial weights, the order of the images and the augmentation. The same seed gives the same
            network.
        set: Values for keys of the recipe, such as ``{"batch.size": 16, "network.widths": [4, 8, 8]}``;
            ``crescendo recipes report`` explains all keys.
        device: "cpu", "cuda" ("cuda:1" for one of several cards), or "auto": the first card that can be used, otherwise
            the CPU.
        threads: Threads of the CPU; one for each core by default. Results do not depend on it.
        out: A folder for the run, with its tables and its report, which must not exist yet. By default nothing is left
            on disk.
        init: A file of weights to start from.
        progress: Whether progress is shown, by tqdm if it is installed; by default in a terminal or a notebook.
        on_epoch: Called after each epoch with its metrics, a dict; None where something was not measured.
        policy: Chooses batch sizes and learning rates: see `train`.

    Attributes:
        classes_: The classes: the different labels of ``y`` in ascending order.
        history_: The epochs: a dict of arrays, see `Run.history`.
        model_: The network, a `Model`: with the best weights by validation accuracy if there are validation images, or
            else the last ones.
    """

    classes_: NDArray[Any]
    history_: dict[str, NDArray[Any]]
    model_: Model

    def __init__(
        self,
        recipe: Union[str, os.PathLike[str]] = "fast94",
        *,
        epochs: Optional[int] = None,
        seed: int = 0,
        set: Optional[Mapping[str, Any]] = None,
        device: str = "auto",
        threads: Optional[int] = None,
        out: Optional[Union[str, os.PathLike[str]]] = None,
        init: Optional[Union[str, os.PathLike[str]]] = None,
        progress: Optional[bool] = None,
        on_epoch: Optional[Callback] = None,
        policy: Optional[Policy] = None,
    ) -> None:
        self.recipe = recipe
        self.epochs = epochs
        self.seed = seed
        self.set = set
        self.device = device
        self.threads = threads
        self.out = out
        self.init = init
        self.progress = progress
        self.on_epoch = on_epoch
        self.policy = policy

    def fit(self, X: Any, y: Any, validation_data: Optional[tuple[Any, Any]] = None) -> Classifier:
        """Trains on all images.

        Args:
            X: Images, uint8 (0 to 255) of shape [N, 32, 32, 3], [N, 3, 32, 32] or [N, 3072] (1024 values of red, then
                green, then blue).
            y: Their N labels: numbers, text, or anything else that can be sorted.
            validation_data: Validation images and their labels, ``(X, y)``. The weights of the epoch that is best on
                them are kept. Their labels must be among those of ``y``.

        Raises:
            ValueError: If images, labels or a parameter are wrong.
            OSError: If a file cannot be read or written.
            RuntimeError: If the device fails, or the loss diverges.
        """
        data, classes = _arrays.encoded(X, y, validation_data)
        temporary = None if self.out is not None else tempfile.mkdtemp(prefix="crescendo-")
        folder = os.path.join(temporary, "run") if temporary is not None else os.fspath(self.out or "")
        settings = {
            **(self.set or {}),
            "train.epochs": self.epochs,
            "train.seed": self.seed,
            "engine.threads": self.threads,
        }
        if self.policy is not None:
            settings["batch.policy"] = "custom"
        request = Request(
            recipe=os.fspath(self.recipe),
            folder=folder,
            changes=changes(settings),
            data=data,
            test_split=None,
            init=None if self.init is None else os.fspath(self.init),
            device=self.device,
            policy=self.policy,
            logs=temporary is None,
        )
        try:
            trained = run(request, self.on_epoch, None, self.progress)
            self.classes_, self.history_ = classes, trained.history
            self.model_ = trained.model(device=self.device, threads=self.threads)
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, float64 of shape [N, classes], in the order of ``classes_``.

        Args:
            X: See `fit`.
        """
        if not hasattr(self, "model_"):
            raise NotFittedError("this Classifier is not fitted yet: call fit first")
        return self.model_.predict_proba(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each image, a label of ``classes_``.

        Args:
            X: See `fit`.
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        # Images are no table of any numbers.
        tags.input_tags.two_d_array = False
        return tags
