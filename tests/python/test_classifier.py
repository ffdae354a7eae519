"""The estimator, with and without scikit-learn."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap

import crescendo
import numpy as np
import pytest
from conftest import BY_POLICY, SMALL


def small(**more):
    return crescendo.Classifier("quick", **{"epochs": 2, "set": SMALL, "progress": False, **more})


def test_fit_learns_and_predicts_labels(images, own_folder):
    x, y = images
    epochs = []
    classifier = small(epochs=8, on_epoch=epochs.append)
    assert classifier.fit(x, y) is classifier
    assert classifier.classes_.tolist() == [0, 1, 2] and classifier.classes_.dtype == y.dtype
    assert classifier.predict_proba(x).shape == (60, 3)
    assert np.array_equal(classifier.predict(x), classifier.classes_[classifier.predict_proba(x).argmax(axis=1)])
    assert classifier.score(x, y) == np.mean(classifier.predict(x) == y) > 0.6
    assert classifier.history_["epoch"].tolist() == [epoch["epoch"] for epoch in epochs] == list(range(1, 9))
    assert classifier.model_.classes == ["0", "1", "2"]
    assert list(own_folder.iterdir()) == [], "nothing is left on disk"


@pytest.mark.parametrize(
    "labels",
    [
        np.array([-5, 3, 1000]),
        np.array(["cat", "ant", "bee"]),
        np.array([0.5, 1.5, -2.0]),
        np.array(["cat", "ant", "bee"], dtype=object),
        np.array([2, 1, 0], dtype=np.uint8),
    ],
)
def test_labels_of_any_kind(images, labels):
    x, y = images
    classifier = small().fit(x, labels[y].tolist())
    assert classifier.classes_.tolist() == sorted(labels.tolist())
    # The same classes in another order are another network; the predictions are labels in any case.
    assert set(classifier.predict(x).tolist()) <= set(labels.tolist())


def test_two_classes_may_be_true_and_false(images):
    x, y = images
    classifier = small().fit(x, y == 0)
    assert classifier.classes_.tolist() == [False, True] and classifier.predict(x).dtype == bool


def test_the_same_seed_is_the_same_network(images):
    x, y = images
    first, again, other = [small(seed=seed).fit(x, y).predict_proba(x) for seed in (0, 0, 1)]
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_validation_images_choose_the_weights(images):
    x, y = images
    classifier = small(epochs=4).fit(x[:40], y[:40], validation_data=(x[40:], y[40:]))
    accuracy = classifier.history_["validation_accuracy"]
    loss = classifier.history_["validation_loss"]
    best = max(range(4), key=lambda index: (accuracy[index], -loss[index]))
    assert classifier.model_.epoch == 1 + best
    assert classifier.score(x[40:], y[40:]) == pytest.approx(accuracy.max(), abs=1e-4)


def test_a_run_is_kept_if_it_is_given_a_folder(images):
    x, y = images

    def stop(epoch):
        raise KeyboardInterrupt

    arguments = {"validation_data": (x[40:], y[40:])}
    with pytest.raises(KeyboardInterrupt) as caught:
        small(out="run", on_epoch=stop).fit(x[:40], y[:40], **arguments)
    told = "\n".join([*map(str, caught.value.args), *getattr(caught.value, "__notes__", [])])
    assert "crescendo.resume('run', data=(X, y), validation_data=...)" in told
    run = crescendo.resume("run", data=(x[:40], y[:40]), **arguments, progress=False)
    whole = small(out="whole").fit(x[:40], y[:40], **arguments)
    assert np.array_equal(run.model().predict_proba(x), whole.predict_proba(x))
    with pytest.raises(ValueError, match="run already exists, and nothing is overwritten"):
        small(out="run").fit(x, y)


def test_an_interrupted_fit_leaves_nothing_behind(images, own_folder, monkeypatch):
    x, y = images
    monkeypatch.setattr("tempfile.tempdir", str(own_folder))

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        small(on_epoch=stop).fit(x, y)
    assert not getattr(caught.value, "__notes__", []) and not caught.value.args
    assert list(own_folder.iterdir()) == []


def test_a_policy_chooses_batch_sizes(images):
    policy = lambda history: (5 + 5 * len(history["epoch"]), 0.02)  # noqa: E731
    classifier = small(policy=policy, set=BY_POLICY).fit(*images)
    assert classifier.history_["batch_size"].tolist() == [5, 10]


def test_a_fitted_classifier_is_pickled(images):
    x, y = images
    classifier = small().fit(x, y)
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(x), classifier.predict_proba(x))
    assert again.get_params() == classifier.get_params()


def test_it_has_its_manner_without_scikit_learn():
    script = """
        import sys
        sys.modules["sklearn"] = sys.modules["sklearn.base"] = None
        import numpy as np, crescendo
        c = crescendo.Classifier("quick", epochs=1, set={"network.widths": [4, 4, 4]}, progress=False)
        assert "sklearn" not in type(c).__mro__[1].__module__
        assert c.get_params()["epochs"] == 1 and c.set_params(seed=2).seed == 2
        assert repr(c).startswith("Classifier(recipe='quick', epochs=1, seed=2"), repr(c)
        try:
            c.predict(np.zeros((1, 3072), np.uint8))
        except ValueError as error:
            assert "not fitted" in str(error)
        try:
            c.set_params(lr=1)
        except ValueError as error:
            assert "there is no parameter lr" in str(error)
        x, y = np.arange(60 * 3072).reshape(60, 3072).astype(np.uint8), np.arange(60) % 3
        assert c.fit(x, y).score(x, y) == np.mean(c.predict(x) == y)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


def test_scikit_learns_tools_take_it(images, needs):
    needs("sklearn")
    from sklearn.base import clone, is_classifier
    from sklearn.ensemble import VotingClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    x, y = images
    classifier = small(threads=1)
    assert is_classifier(classifier)
    assert clone(classifier).get_params() == classifier.get_params()
    scores = cross_val_score(classifier, x, y, cv=3)
    assert scores.shape == (3,) and np.array_equal(scores, cross_val_score(classifier, x, y, cv=3, n_jobs=2))
    steps = Pipeline([("mirror", FunctionTransformer(lambda x: x[:, :, ::-1])), ("network", classifier)])
    search = GridSearchCV(steps, {"network__epochs": [1, 2]}, cv=2).fit(x, y)
    assert search.best_params_["network__epochs"] in (1, 2) and search.predict(x).shape == (60,)
    voting = VotingClassifier([("a", small()), ("b", small(seed=1))], voting="soft").fit(x, y)
    assert voting.predict(x).shape == (60,)


def test_joblib_writes_and_reads_it(images, needs):
    needs("joblib")
    import joblib

    x, y = images
    classifier = small().fit(x, y)
    joblib.dump(classifier, "classifier.joblib")
    assert np.array_equal(joblib.load("classifier.joblib").predict_proba(x), classifier.predict_proba(x))


CHECKS = [
    "check_estimator_cloneable",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
    "check_estimators_unfitted",
]


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_own_check(check, needs):
    needs("sklearn")
    from sklearn.utils import estimator_checks

    getattr(estimator_checks, check)("Classifier", crescendo.Classifier())
