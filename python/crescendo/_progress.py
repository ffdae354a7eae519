"""How a run is shown while it trains."""

from __future__ import annotations

import sys
from typing import Any, Optional, TextIO


class Silent:
    """Nothing is shown."""

    def event(self, event: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """A line for each epoch."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._epochs = 0

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self._epochs = event["epochs"]
        elif event["event"] == "epoch":
            epoch = f"{event['epoch']}/{self._epochs}" if self._epochs else str(event["epoch"])
            numbers = ", ".join(f"{name} {value}" for name, value in _numbers(event).items())
            print(f"Epoch {epoch}: {numbers}", file=self._file, flush=True)


class Bar(Silent):
    """tqdm's bar, over all images of the run."""

    def __init__(self, tqdm: Any) -> None:
        self._bar = tqdm(unit=" img", unit_scale=True, total=0, dynamic_ncols=True)
        self._before = 0
        self._last: dict[str, Any] = {}

    def event(self, event: dict[str, Any]) -> None:
        bar = self._bar
        if event["event"] == "step":
            if self._last and event["epoch"] != self._last["epoch"]:
                self._before += self._last["epoch_images"]
            elif not self._last:
                # What was trained before the run was resumed.
                self._before = (event["epoch"] - 1) * event["epoch_images"]
                bar.initial = bar.n = self._before
            if event["epoch"] != self._last.get("epoch"):
                bar.set_description(f"Epoch {event['epoch']}/{event['epochs']}", refresh=False)
            self._last = event
            bar.total = self._before + event["epoch_images"] + event["later_images"]
            bar.update(self._before + event["images"] - bar.n)
        elif event["event"] == "epoch":
            bar.set_postfix(_numbers(event), refresh=True)
        elif event["event"] == "finished" and self._last:
            bar.update(bar.total - bar.n)

    def close(self) -> None:
        self._bar.close()


def _numbers(epoch: dict[str, Any]) -> dict[str, str]:
    """The numbers of an epoch that are known."""
    accuracies = {"train": "train_accuracy", "validation": "validation_accuracy", "test": "test_accuracy"}
    loss = {} if epoch["train_loss"] is None else {"loss": f"{epoch['train_loss']:.4f}"}
    known = {name: epoch[key] for name, key in accuracies.items() if epoch[key] is not None}
    return {**loss, **{name: f"{100 * value:.1f} %" for name, value in known.items()}}


def shown(progress: Optional[bool]) -> Silent:
    """What shows a run: with None only in a terminal or a notebook, with False never."""
    notebook = _in_notebook()
    file = sys.stdout if notebook else sys.stderr
    if progress is None:
        progress = notebook or (file is not None and file.isatty())
    if not progress:
        return Silent()
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return Lines(file)
    return Bar(tqdm)


def _in_notebook() -> bool:
    """Whether this is a kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
