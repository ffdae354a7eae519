"""Training and resuming runs."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from numpy.typing import NDArray

from . import _arrays, _crescendo, _history, _progress
from ._errors import in_python
from ._run import Run
from ._settings import changes

# A path, "shapes", or arrays (X, y).
Data = Union[str, "os.PathLike[str]", tuple[Any, Any]]
Callback = Callable[[dict[str, Any]], Any]
# From the history to the batch size and the learning rate.
Policy = Callable[[dict[str, NDArray[Any]]], tuple[int, float]]


def train(
    recipe: Union[str, os.PathLike[str]] = "quick",
    *,
    data: Optional[Data] = None,
    epochs: Optional[int] = None,
    seed: Optional[int] = None,
    set: Optional[Mapping[str, Any]] = None,
    device: str = "auto",
    threads: Optional[int] = None,
    out: Optional[Union[str, os.PathLike[str]]] = None,
    init: Optional[Union[str, os.PathLike[str]]] = None,
    test_split: Optional[float] = None,
    on_epoch: Optional[Callback] = None,
    on_event: Optional[Callback] = None,
    progress: Optional[bool] = None,
    policy: Optional[Policy] = None,
) -> Run:
    """Trains a network as a recipe says, like the command ``crescendo train``, to the same bits.

    Ctrl-C, or an exception that a callback raises, stops the training after the current update; the run is saved, and
    the exception raised again, with a note that says how to resume the run.

    Args:
        recipe: The name of a built-in recipe (``crescendo recipes`` lists them) or the path of a TOML file.
        data: What ``crescendo train --data`` takes: the path of a data set or of a folder of images, or "shapes"; or
            arrays ``(X, y)``: images, uint8 of shape [N, 32, 32, 3], [N, 3, 32, 32] or [N, 3072] (1024 values of red,
            then green, then blue), and their N labels. By default the recipe's data set. All images of arrays are
            trained on: without ``test_split`` there is no test set, and no evaluation on one.
        epochs: Passes over the training images; by default the recipe's.
        seed: Seed of the initial weights, the order of the images and the augmentation; by default the recipe's.
        set: Values for keys of the recipe, such as ``{"batch.size": 16, "network.widths": [4, 8, 8]}``;
            ``crescendo recipes report`` explains all keys.
        device: "cpu", "cuda" ("cuda:1" for one of several cards), or "auto": the first card that can be used, otherwise
            the CPU.
        threads: Threads of the CPU; one for each core by default. Results do not depend on it.
        out: The run's folder, which must not exist yet; by default ``runs/<recipe>-<n>``.
        init: A file of weights to start from.
        test_split: The fraction of each class to test on, for arrays and for a folder of images without ``test``.
        on_epoch: Called after each epoch with its row of ``epochs.csv``, a dict; None where something was not measured.
        on_event: Called with each event of ``crescendo train --json``, a dict.
        progress: Whether progress is shown, by tqdm if it is installed; by default in a terminal or a notebook.
        policy: Chooses the batch size and the learning rate: called at the beginning of each epoch with the history, a
            dict of arrays with a value for each epoch so far (see `Run.history`; no times), it returns both. It must
            depend on the history alone, so that a resumed run chooses the same. A schedule of the recipe changes the
            learning rate further.

    Raises:
        ValueError: If a setting is wrong, or does not go with the data.
        OSError: If a file cannot be read or written.
        RuntimeError: If the device fails, or the loss diverges.
    """
    settings = {**(set or {}), "train.epochs": epochs, "train.seed": seed, "engine.threads": threads}
    if policy is not None:
        settings["batch.policy"] = "custom"
    elif settings.get("batch.policy") == "custom":
        raise ValueError("batch.policy = custom needs a function that chooses the batch sizes: give it with policy=")
    request = Request(
        recipe=os.fspath(recipe),
        folder=None if out is None else os.fspath(out),
        changes=changes(settings),
        data=_data(data),
        test_split=_fraction(test_split),
        init=None if init is None else os.fspath(init),
        device=device,
        policy=policy,
    )
    return run(request, on_epoch, on_event, progress)


def resume(
    folder: Union[str, os.PathLike[str]],
    *,
    data: Optional[Data] = None,
    epochs: Optional[int] = None,
    set: Optional[Mapping[str, Any]] = None,
    device: str = "auto",
    threads: Optional[int] = None,
    test_split: Optional[float] = None,
    validation_data: Optional[tuple[Any, Any]] = None,
    on_epoch: Optional[Callback] = None,
    on_event: Optional[Callback] = None,
    progress: Optional[bool] = None,
    policy: Optional[Policy] = None,
) -> Run:
    """Trains a run on from where it was stopped, to the same bits as if it had not been.

    Args:
        folder: The run's folder.
        data: Its data, if that were arrays, with the same ``test_split`` and ``validation_data``; or where it is now, if
            it was moved.
        epochs: Epochs of the whole run, if that is to change. A finished run with more epochs is trained on.
        set: New values for the keys that may change: ``train.stop_after``, ``optimizer.learning_rate`` and others.
        device: By default the run's own.
        validation_data: The validation images ``(X, y)`` of a `Classifier` that was given ``out``.
        policy: The function that the run was started with, if it was.

    The other parameters, and exceptions, are those of `train`.
    """
    request = Request(
        recipe=None,
        folder=os.fspath(folder),
        changes=changes({**(set or {}), "train.epochs": epochs, "engine.threads": threads}),
        data=_data(data, validation_data),
        test_split=_fraction(test_split),
        init=None,
        device=device,
        policy=policy,
    )
    return run(request, on_epoch, on_event, progress)


def _data(data: Optional[Data], validation: Optional[tuple[Any, Any]] = None) -> Union[None, str, _arrays.Arrays]:
    if data is None or isinstance(data, (str, os.PathLike)):
        if validation is not None:
            raise ValueError("validation_data goes with arrays: give the images with data=(X, y)")
        return None if data is None else os.fspath(data)
    try:
        x, y = data
    except (TypeError, ValueError) as error:
        raise ValueError("data must be a path, or arrays (X, y) of images and labels") from error
    return _arrays.encoded(x, y, validation)[0]


def _fraction(test_split: Optional[float]) -> Optional[float]:
    if test_split is None or 0 < test_split < 1:
        return None if test_split is None else float(test_split)
    raise ValueError(f"test_split must be between 0 and 1, such as 0.2, but it is {test_split}")


@dataclass
class Request:
    """What the part in Rust is asked to train."""

    recipe: Optional[str]
    folder: Optional[str]
    changes: list[str]
    data: Union[None, str, _arrays.Arrays]
    test_split: Optional[float]
    init: Optional[str]
    device: str
    policy: Optional[Any]
    observer: Any = None
    every_update: bool = False
    logs: bool = True


def run(
    request: Request,
    on_epoch: Optional[Callback],
    on_event: Optional[Callback],
    progress: Optional[bool],
) -> Run:
    """Trains a run to its end."""
    for name, function in [("on_epoch", on_epoch), ("on_event", on_event), ("policy", request.policy)]:
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, but it is {function!r}")
    if request.policy is not None:
        request.policy = _asking(request.policy)
    observer = _Observer(on_epoch, on_event, _progress.shown(progress))
    request.observer, request.every_update = observer, on_event is not None
    try:
        return Run(_crescendo.train(request))
    except BaseException as error:
        stopped = error is observer.raised or isinstance(error, KeyboardInterrupt)
        # Without logs the folder is a temporary one.
        if stopped and observer.folder is not None and request.logs:
            _add_note(error, f"The run is saved. To resume it: {_resuming(observer.folder, request)}")
        raise
    finally:
        observer.close()


class _Observer:
    """Gets the events of a run."""

    def __init__(self, on_epoch: Optional[Callback], on_event: Optional[Callback], shown: _progress.Silent) -> None:
        self.folder: Optional[str] = None
        self.raised: Optional[BaseException] = None
        self._on_epoch, self._on_event, self._shown = on_epoch, on_event, shown

    def __call__(self, text: str) -> None:
        event = json.loads(text)
        if event["event"] == "started":
            self.folder = event["folder"]
        try:
            if event["event"] == "note" and event["text"].lower().startswith("warning: "):
                # Four calls up is who called `train`.
                warnings.warn(in_python(event["text"][len("warning: ") :]), stacklevel=4)
            self._shown.event(event)
            if self._on_event is not None:
                self._on_event(event)
            if self._on_epoch is not None and event["event"] == "epoch":
                self._on_epoch({key: value for key, value in event.items() if key != "event"})
        except BaseException as error:
            self.raised = error
            raise

    def close(self) -> None:
        # The exception would keep the caller's variables alive.
        self.raised = None
        self._shown.close()


def _asking(policy: Policy) -> Callable[[str], tuple[int, float]]:
    """The policy, called with a history in JSON."""

    def ask(text: str) -> tuple[int, float]:
        chosen = policy(_history.columns(json.loads(text)))
        try:
            batch_size, learning_rate = chosen
            return int(batch_size), float(learning_rate)
        except (TypeError, ValueError) as error:
            raise ValueError(f"policy must return (batch_size, learning_rate), but it returned {chosen!r}") from error

    return ask


def _resuming(folder: str, request: Request) -> str:
    """How to resume the run."""
    arguments = [repr(folder)]
    if isinstance(request.data, _arrays.Arrays):
        arguments.append("data=(X, y)")
        if request.test_split is not None:
            arguments.append(f"test_split={request.test_split}")
        if request.data.validation is not None:
            arguments.append("validation_data=...")
    if request.policy is not None:
        arguments.append("policy=...")
    in_python = f"crescendo.resume({', '.join(arguments)})"
    is_own = len(arguments) > 1
    return in_python if is_own else f"{in_python}, or in a shell: crescendo train --resume {shlex.quote(folder)}"


def _add_note(error: BaseException, note: str) -> None:
    if hasattr(error, "add_note"):
        error.add_note(note)
    elif not error.args:
        error.args = (note,)
    elif isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
