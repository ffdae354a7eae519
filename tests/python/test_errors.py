"""What is said of wrong arguments: exceptions of Python's own classes, sentences that name parameters and keys."""

from __future__ import annotations

import re
from pathlib import Path

import crescendo
import numpy as np
import pytest
from conftest import SMALL
from crescendo._errors import in_python


def train(**more):
    return crescendo.train("quick", **{"data": "shapes:60,20", "epochs": 1, "set": SMALL, "progress": False, **more})


def says(raised, *parts):
    """Whether a sentence for Python has these parts."""
    sentence = str(raised.value)
    for part in parts:
        assert part in sentence, sentence
    assert "\n" not in sentence and "panic" not in sentence
    # Options are the command's, which stands in backquotes.
    assert not re.search(r"--\w", "".join(sentence.split("`")[::2]).replace("the command's option --", "")), sentence


X = np.zeros((6, 32, 32, 3), np.uint8)
Y = np.arange(6) % 2


@pytest.mark.parametrize(
    "x, parts",
    [
        (X / 255, ["X must be of type uint8, from 0 to 255, but it is float64", "astype('uint8')"]),
        (X.astype(np.int64), ["but it is int64"]),
        (X[0], ["the shape [N, 32, 32, 3], [N, 3, 32, 32] or [N, 3072]", "but it is 32x32x3"]),
        (np.zeros((6, 28, 28), np.uint8), ["but it is 6x28x28", "bring images of another size to 32x32"]),
        (np.zeros((6, 3071), np.uint8), ["but it is 6x3071"]),
        (7, ["a single number"]),
    ],
)
def test_wrong_images(x, parts):
    for use in (lambda: crescendo.Classifier("quick").fit(x, Y), lambda: train(data=(x, Y))):
        with pytest.raises(ValueError) as raised:
            use()
        says(raised, *parts)


@pytest.mark.parametrize(
    "y, parts",
    [
        (Y[:5], ["y has 5 labels, but there are 6 images"]),
        (Y[:, None], ["y must have one dimension, a label for each image, but its shape is [6, 1]"]),
        (np.array([0, 1, 0, 1, 0, np.nan]), ["y has labels that are infinite or not a number"]),
        (np.array([0, "a", 0, None, 0, 1], dtype=object), ["the labels in y cannot be sorted"]),
    ],
)
def test_wrong_labels(y, parts):
    with pytest.raises(ValueError) as raised:
        crescendo.Classifier("quick").fit(X, y)
    says(raised, *parts)


def test_wrong_validation_data():
    fit = crescendo.Classifier("quick").fit
    for validation, part in [
        ((X, Y + 1), "the validation set has labels that y does not have: 2"),
        ((X, Y[:3]), "the validation set has 3 labels, but there are 6 images"),
        ((X[:, :16], Y), "the validation images must have the shape"),
    ]:
        with pytest.raises(ValueError) as raised:
            fit(X, Y, validation_data=validation)
        says(raised, part)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ({"recipe": "quikc"}, ["there is no recipe quikc (is it quick?)"]),
        ({"recipe": "mine.toml"}, ["there is no recipe mine.toml"]),
        ({"set": {"batch.sise": 5}}, ["there is no key batch.sise", "batch.size"]),
        ({"set": {"lr": 0.1}}, ["there is no key lr", "optimizer.learning_rate"]),
        ({"set": {"batch.size": "many"}}, ['batch.size must be a whole number, but it is "many"']),
        ({"set": {"batch.size": None, "batch.steps": [[1, 0]]}}, ["batch.steps"]),
        ({"set": {"batch.size": object}}, ["batch.size cannot be <class 'object'>"]),
        ({"set": {"batch.policy": "custom"}}, ["give it with policy="]),
        ({"epochs": -1}, ["train.epochs must be a whole number"]),
        ({"epochs": 1.5}, ["train.epochs must be a whole number, but it is 1.5"]),
        ({"seed": "one"}, ["train.seed"]),
        ({"threads": -2}, ["engine.threads must be a whole number"]),
        ({"device": "gpu"}, ['device is "gpu": expected auto, cpu, cuda']),
        ({"test_split": 1.5}, ["test_split must be between 0 and 1, such as 0.2, but it is 1.5"]),
        ({"data": (X, Y), "test_split": 0.01}, ["leaves 0 of 6 images to test on"]),
        ({"data": (X[:0], Y[:0])}, ["arrays has 0 classes"]),
        ({"data": (X, Y, Y)}, ["data must be a path, or arrays (X, y)"]),
        ({"data": (X, Y), "set": {"network.classes": 5}}, ["has 2 classes, but network.classes is 5"]),
        ({"data": (X, Y), "set": {"data.validation": 6}}, ["leaves nothing to train on"]),
    ],
)
def test_wrong_settings(arguments, parts, own_folder):
    recipe = arguments.pop("recipe", "quick") if "recipe" in arguments else "quick"
    with pytest.raises(ValueError) as raised:
        crescendo.train(recipe, **{"data": "shapes:60,20", "progress": False, **arguments})
    says(raised, *parts)
    assert list(own_folder.iterdir()) == [], "there is no half-made run"


def test_what_is_no_function_is_refused():
    for name in ("on_epoch", "on_event", "policy"):
        with pytest.raises(TypeError, match=f"{name} must be a function, but it is 5"):
            train(**{name: 5})


def test_files_that_are_not_there(own_folder):
    with pytest.raises(FileNotFoundError) as raised:
        train(data="flowers")
    says(raised, "flowers: there is no such file or folder")
    assert raised.value.errno == 2
    with pytest.raises(FileNotFoundError):
        crescendo.load("model.safetensors")
    with pytest.raises(FileNotFoundError) as raised:
        train(init="model.safetensors")
    says(raised, "cannot read model.safetensors: ")
    with pytest.raises(FileNotFoundError) as raised:
        crescendo.train("report", set=SMALL, progress=False)
    says(raised, "CIFAR-10 was not found", "data='shapes'", "`crescendo data fetch`")
    (own_folder / "file").write_text("")
    with pytest.raises(OSError) as raised:
        train(out="file/run")
    says(raised, "cannot create file/run")


def test_folders_that_are_no_runs(own_folder):
    (own_folder / "empty").mkdir()
    for use in (crescendo.Run, crescendo.load, crescendo.resume):
        with pytest.raises(ValueError) as raised:
            use("empty")
        says(raised, "empty: is not a run folder")
    train(out="run")
    with pytest.raises(ValueError) as raised:
        train(out="run")
    says(raised, "run already exists, and nothing is overwritten", "with out=", "crescendo.resume('run')")
    with pytest.raises(ValueError) as raised:
        crescendo.resume("run", set={"batch.size": 7})
    says(raised, "on resume only train.epochs", "with init=")
    with pytest.raises(ValueError) as raised:
        crescendo.resume("run", policy=lambda history: (1, 1.0), epochs=2)
    says(raised, "only a recipe with batch.policy = custom takes another one")
    (own_folder / "run/weights/last.safetensors").write_bytes(b"damaged")
    (own_folder / "run/weights/epoch-0001.safetensors").unlink()
    with pytest.raises(ValueError) as raised:
        crescendo.load("run")
    says(raised, "last.safetensors: is not a valid safetensors file")


def test_a_loss_that_diverges(own_folder):
    with pytest.raises(RuntimeError) as raised:
        train(set={**SMALL, "optimizer.learning_rate": 1e30}, out="run")
    says(raised, "the loss or a weight is not a number at update", "optimizer.learning_rate")


def test_a_card_that_is_not_there():
    with pytest.raises(RuntimeError) as raised:
        train(device="cuda")
    says(raised, "a card needs NVIDIA's driver", "use device='cpu'")


def test_a_model_is_loaded_not_made():
    with pytest.raises(TypeError, match="crescendo.load makes a Model"):
        crescendo.Model()


def test_options_become_parameters():
    for said, expected in [
        ("choose another folder with --out, or resume the run with --resume a b", "choose another folder with out=, or resume the run with crescendo.resume('a b')"),
        ("(--resume RUN --set optimizer.learning_rate=…)", "(crescendo.resume(RUN, set={'optimizer.learning_rate': ...}))"),
        ("leave it out with --set data.damaged=skip (a.png)", "leave it out with set={'data.damaged': 'skip'} (a.png)"),
        ("add --set network.classes=3", "add set={'network.classes': 3}"),
        ("add --epochs (or --set train.stop_after=0, if", "add epochs= (or set={'train.stop_after': 0}, if"),
        ("give its path with --data PATH or use --data shapes, which", "give its path with data=PATH or use data='shapes', which"),
        ("leave --test-split out", "leave test_split= out"),
        ("write `crescendo data info x --damaged FILE` or --json", "write `crescendo data info x --damaged FILE` or the command's option --json"),
    ]:
        assert in_python(said) == expected


def test_a_bug_is_an_error_and_not_a_crash(images):
    from crescendo import _crescendo

    with pytest.raises(ValueError, match="has no whole images"):
        network = crescendo.Classifier("quick", epochs=1, set=SMALL).fit(*images).model_._network
        network.probabilities(np.zeros((2, 5), np.uint8))
    with pytest.raises(ValueError):
        _crescendo.Network("name", b"", "cpu", [])
    assert Path(_crescendo.weights("file", None)) == Path("file")
