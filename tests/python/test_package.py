"""The package as it is installed: its types, its documentation."""

from __future__ import annotations

import inspect
import subprocess
import sys

import crescendo
import pytest


def test_the_types_are_those_of_the_modules(needs, own_folder):
    needs("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "crescendo", "--ignore-missing-stub"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_typed(needs, own_folder):
    needs("mypy")
    use = """
import crescendo
import numpy as np
model: crescendo.Model = crescendo.load("run")
p = model.predict_proba(np.zeros((1, 3072), np.uint8))
reveal_type(p)
reveal_type(crescendo.Classifier().fit([], []))
crescendo.train(epochs="two")
"""
    (own_folder / "use.py").write_text(use)
    done = subprocess.run([sys.executable, "-m", "mypy", "use.py"], capture_output=True, text=True)
    assert "numpy.float64" in done.stdout and "_classifier.Classifier" in done.stdout, done.stdout
    assert done.stdout.count("error:") == 1 and 'Argument "epochs"' in done.stdout, done.stdout
    inside = subprocess.run(
        [sys.executable, "-m", "mypy", "-p", "crescendo"], capture_output=True, text=True
    )
    assert inside.returncode == 0, inside.stdout


@pytest.mark.parametrize("name", [name for name in crescendo.__all__ if name != "__version__"])
def test_what_is_public_is_documented(name):
    item = getattr(crescendo, name)
    members = [item]
    if inspect.isclass(item):
        members += [value for key, value in vars(item).items() if not key.startswith("_") and key in dir(item)]
    for member in members:
        if callable(member) or isinstance(member, property):
            assert inspect.getdoc(member), member


def test_unknown_names_are_unknown():
    with pytest.raises(AttributeError, match="module 'crescendo' has no attribute 'fit'"):
        crescendo.fit
    assert set(crescendo.__all__) <= set(dir(crescendo))
