"""Trained networks: layouts of images, weights, files, pickle."""

from __future__ import annotations

import copy
import pickle
import subprocess
import threading

import crescendo
import numpy as np
import pytest
from conftest import SMALL, program


@pytest.fixture
def run(images):
    return crescendo.train("quick", data=images, epochs=2, set=SMALL, out="run", progress=False)


def test_all_layouts_of_the_same_images_give_equal_results(run, images):
    x, y = images
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    layouts = [x, first, first.reshape(60, 3072), np.asfortranarray(x), x.transpose(0, 3, 1, 2), x[::-1][::-1]]
    model = run.model()
    expected = model.predict_proba(x)
    assert expected.dtype == np.float64 and expected.shape == (60, 3)
    assert np.allclose(expected.sum(axis=1), 1)
    for layout in layouts:
        assert np.array_equal(model.predict_proba(layout), expected)
        fitted = crescendo.Classifier("quick", epochs=2, set=SMALL).fit(layout, y)
        assert np.array_equal(fitted.predict_proba(x), expected)
    assert model.predict_proba(x[:0]).shape == (0, 3)
    many = np.repeat(x, 10, axis=0)
    assert np.array_equal(model.predict_proba(many), np.repeat(expected, 10, axis=0))


def test_classes_are_predicted_by_name(run, images):
    x, y = images
    model = run.model()
    predicted = model.predict(x)
    assert predicted.dtype.kind == "U" and set(predicted) <= {"0", "1", "2"}
    assert np.array_equal(predicted.astype(int), model.predict_proba(x).argmax(axis=1))
    assert model.score(x, y) == model.score(x, y.astype(str)) == (predicted == y.astype(str)).mean()


def test_weights_have_the_names_and_shapes_of_pytorchs(run):
    state = run.model().state_dict()
    assert all(isinstance(array, np.ndarray) for array in state.values())
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32), np.dtype(np.int64)}
    shapes = [array.shape for name, array in state.items() if name.endswith("weight")]
    assert (4, 3, 3, 3) in shapes and (4,) in shapes
    assert any(name.endswith("num_batches_tracked") and array.shape == () for name, array in state.items())


def test_an_onnx_model_is_the_programs(run, own_folder):
    run.model().export_onnx("python.onnx")
    subprocess.run([program(), "export", "run", "--onnx", "program.onnx"], check=True, stdout=subprocess.DEVNULL)
    assert (own_folder / "python.onnx").read_bytes() == (own_folder / "program.onnx").read_bytes()
    run.model().export_onnx(own_folder / "python.onnx", flip=True, shift=1, fixed=True)
    assert (own_folder / "python.onnx").read_bytes() != (own_folder / "program.onnx").read_bytes()
    with pytest.raises(ValueError, match="already exists and is not a model that crescendo wrote"):
        run.model().export_onnx("run/recipe.toml")
    with pytest.raises(ValueError, match="shift must be a whole number from 0 to 31, but it is 32"):
        run.model().export_onnx("other.onnx", shift=32)


def test_a_saved_model_is_the_same(run, images, own_folder):
    x, _ = images
    model = run.model()
    model.save("model.safetensors")
    model.save("model.safetensors")
    again = crescendo.load("model.safetensors")
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))
    assert (own_folder / "model.safetensors").read_bytes() == (run.folder / "weights/last.safetensors").read_bytes()
    assert sorted(path.name for path in own_folder.iterdir()) == ["model.safetensors", "run"]
    with pytest.raises(OSError):
        model.save("nowhere/model.safetensors")


def test_a_model_is_pickled_and_copied(run, images):
    x, _ = images
    model = run.model(threads=1)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(again.predict_proba(x), model.predict_proba(x))


def test_threads_take_turns(run, images):
    x, _ = images
    model = run.model()
    expected, results = model.predict_proba(x), [None] * 8

    def predict(index):
        results[index] = model.predict_proba(x)

    threads = [threading.Thread(target=predict, args=(index,)) for index in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(np.array_equal(result, expected) for result in results)


def test_results_do_not_depend_on_the_number_of_threads(run, images):
    x, _ = images
    assert np.array_equal(run.model(threads=1).predict_proba(x), run.model(threads=3).predict_proba(x))
