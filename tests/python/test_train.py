"""Runs: the program's bytes, callbacks, stopping and resuming, policies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import crescendo
import numpy as np
import pytest
from conftest import BY_POLICY, SMALL, best_or_last, program


def small(**more):
    settings = {"data": "shapes:60,20", "epochs": 2, "set": SMALL, "progress": False, **more}
    return crescendo.train("quick", **settings)


def test_a_run_has_the_same_bytes_as_the_programs(own_folder):
    run = small(seed=3)
    assert run.folder == Path("runs/quick-1")
    arguments = "train quick --data shapes:60,20 --epochs 2 --seed 3 --set network.widths=[4,4,4] "
    arguments += "--set batch.steps=[[1,10]] --set optimizer.learning_rate=0.02"
    subprocess.run([program(), *arguments.split()], check=True, stdout=subprocess.DEVNULL)
    assert best_or_last("runs/quick-1") == best_or_last("runs/quick-2")
    recipes = [Path(f"runs/quick-{n}/recipe.toml").read_text() for n in (1, 2)]
    assert recipes[0] == recipes[1]
    for name in ("report.html", "log.txt", "decisions.csv"):
        assert (run.folder / name).exists()


def test_nothing_is_printed(capfd):
    small()
    assert capfd.readouterr() == ("", "")


def test_epochs_and_events_are_dicts():
    epochs, events = [], []
    run = small(on_epoch=epochs.append, on_event=events.append)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert 0 <= epochs[0]["train_accuracy"] <= 1 and epochs[0]["validation_loss"] is None
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started" and kinds[-1] == "finished"
    assert kinds.count("step") == 12 and kinds.count("epoch") == 2
    # The history has the same rows, with as many digits as the table has.
    history = run.history
    assert set(epochs[0]) == set(history)
    assert history["epoch"].tolist() == [1, 2] and history["epoch"].dtype == np.int64
    assert history["train_loss"] == pytest.approx([epoch["train_loss"] for epoch in epochs], abs=1e-6)
    assert np.isnan(history["validation_loss"]).all()


def test_a_history_is_a_data_frame(needs):
    needs("pandas")
    import pandas

    frame = pandas.DataFrame(small().history)
    assert len(frame) == 2 and frame["updates"].tolist() == [6, 12]


@pytest.mark.parametrize("at", [1, 2, 7, 12])
def test_an_exception_stops_a_run_which_is_resumed_to_the_same_bytes(at):
    whole = small(out="whole")

    class Enough(Exception):
        pass

    raised = Enough("for today")

    def stop(event):
        if event["event"] == "step" and event["update"] == at:
            raise raised

    with pytest.raises(Enough) as caught:
        small(out="stopped", on_event=stop)
    assert caught.value is raised
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "crescendo.resume('stopped')" in told and "crescendo train --resume stopped" in told
    updates = small_updates("stopped")
    assert updates in (at, at + 1), "it stops within an update"
    run = crescendo.resume("stopped", progress=False)
    assert best_or_last(run.folder) == best_or_last(whole.folder)
    assert run.history["epoch"].tolist() == [1, 2]


def small_updates(folder):
    """The updates that are in the last weights."""
    content = (Path(folder) / "weights/last.safetensors").read_bytes()
    return int(re.search(rb'"updates":"(\d+)"', content)[1])


def test_an_exception_at_an_epochs_end_is_raised_too():
    def stop(epoch):
        raise KeyError(epoch["epoch"])

    with pytest.raises(KeyError):
        small(out="run", on_epoch=stop)
    assert crescendo.Run("run").history["epoch"].tolist() == [1]
    assert crescendo.resume("run", progress=False).history["epoch"].tolist() == [1, 2]


# The main thread of a process of its own, which gets a signal as Ctrl-C sends it.
INTERRUPTED = """
import os, pathlib, signal, threading, time, crescendo
def later(event):
    if event["event"] == "step" and event["update"] == 5:
        os.kill(os.getpid(), signal.SIGINT)
def after_an_epoch():
    table = pathlib.Path("stopped", "epochs.csv")
    while not table.exists() or len(table.read_text().splitlines()) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
callback = {"on_event": later} if CALLBACK else {}
if not CALLBACK:
    threading.Thread(target=after_an_epoch, daemon=True).start()
try:
    crescendo.train("quick", data="shapes:60,20", epochs=EPOCHS, out="stopped", progress=False, **callback,
                    set={"network.widths": [4, 4, 4], "batch.steps": [[1, 10]], "optimizer.learning_rate": 0.02})
except KeyboardInterrupt as error:
    print("interrupted", *error.args, *getattr(error, "__notes__", []))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT on Windows")
@pytest.mark.parametrize("in_callback", [True, False])
def test_ctrl_c_stops_a_run_which_is_resumed_to_the_same_bytes(in_callback):
    epochs = 2 if in_callback else 100_000
    script = INTERRUPTED.replace("CALLBACK", str(in_callback)).replace("EPOCHS", str(epochs))
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - begin < 50
    assert "interrupted" in done.stdout and "crescendo.resume('stopped')" in done.stdout, done.stderr
    if in_callback:
        assert small_updates("stopped") in (5, 6)
        whole = small(out="whole")
        resumed = crescendo.resume("stopped", progress=False)
        assert best_or_last(resumed.folder) == best_or_last(whole.folder)


def test_arrays_are_all_trained_on_and_resumed_with_the_same_arrays(images):
    x, y = images

    def stop(epoch):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError) as caught:
        small(data=(x, y), out="run", on_epoch=stop)
    assert "data=(X, y)" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "60 for training, 0 for validation, 0 for testing" in Path("run/log.txt").read_text()
    with pytest.raises(ValueError, match=r"run: was trained on arrays in memory: give them again, with data=\(X, y\)"):
        crescendo.resume("run", progress=False)
    with pytest.raises(ValueError, match="not the data that the run in run was trained on"):
        crescendo.resume("run", data=(x[::-1], y), progress=False)
    resumed = crescendo.resume("run", data=(x, y), progress=False)
    whole = small(data=(x, y), out="whole")
    assert best_or_last(resumed.folder) == best_or_last(whole.folder)
    assert np.isnan(whole.history["test_accuracy"]).all()
    model = whole.model()
    assert model.classes == ["0", "1", "2"]
    assert model.score(x, y) == np.mean(model.predict(x).astype(int) == y)


def test_the_program_says_that_it_does_not_have_the_arrays_of_a_run(images):
    small(data=images, out="run")
    for arguments in ("train --resume run --epochs 3", "evaluate run"):
        done = subprocess.run([program(), *arguments.split()], capture_output=True, text=True)
        assert done.returncode == 1
        assert "arrays in memory" in done.stderr and "--data" in done.stderr
    done = subprocess.run([program(), "report", "run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_part_of_each_class_is_tested_on(images):
    run = small(data=images, test_split=0.2, out="run")
    assert "48 for training, 0 for validation, 12 for testing" in Path("run/log.txt").read_text()
    assert np.isfinite(run.history["test_accuracy"]).all()
    assert crescendo.resume("run", data=images, test_split=0.2, epochs=3, progress=False).history["epoch"][-1] == 3


def test_a_policy_chooses_and_a_resumed_run_chooses_the_same():
    seen = []

    def policy(history):
        assert set(history) >= {"epoch", "train_loss", "validation_accuracy", "noise_scale"}
        seen.append(history["train_loss"].tolist())
        epoch = len(history["epoch"]) + 1
        return 5 * epoch, 0.02 / epoch

    whole = small(policy=policy, set=BY_POLICY, epochs=3, out="whole")
    assert whole.history["batch_size"].tolist() == [5, 10, 15]
    assert whole.history["learning_rate"] == pytest.approx([0.02, 0.01, 0.02 / 3])
    assert [len(losses) for losses in seen] == [0, 1, 2] and seen[2][:1] == seen[1]

    def stop(epoch):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError) as caught:
        small(policy=policy, set=BY_POLICY, epochs=3, out="stopped", on_epoch=stop)
    assert "policy=..." in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    with pytest.raises(ValueError, match="with policy="):
        crescendo.resume("stopped", progress=False)
    resumed = crescendo.resume("stopped", policy=policy, progress=False)
    assert best_or_last(resumed.folder) == best_or_last(whole.folder)


def test_a_policy_that_fails_ends_the_run_with_its_exception():
    def policy(history):
        return 5, 1 / (1 - len(history["epoch"]))

    with pytest.raises(ZeroDivisionError):
        small(policy=policy, set=BY_POLICY, out="run")
    with pytest.raises(ValueError, match=r"policy must return \(batch_size, learning_rate\), but it returned 5"):
        small(policy=lambda history: 5, set=BY_POLICY, out="other")


def test_two_runs_train_at_the_same_time():
    alone = small(out="alone")
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: small(), range(4)))
    assert len({run.folder for run in runs}) == 4
    assert all(best_or_last(run.folder) == best_or_last(alone.folder) for run in runs)


def test_a_key_without_effect_is_a_warning_at_the_callers_line():
    with pytest.warns(UserWarning, match="batch.max has no effect") as caught:
        crescendo.train("quick", data="shapes:60,20", epochs=1, set={**SMALL, "batch.max": 50}, progress=False)
    assert caught[0].filename == __file__


def test_other_threads_run_while_a_run_trains():
    counted = [0]
    done = threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    # No callback: Python has nothing to do meanwhile.
    small(data="shapes:600,20", set={**SMALL, "network.widths": [16, 16, 16]}, threads=1)
    done.set()
    thread.join()
    assert counted[0] > 50


def test_the_runs_weights_of_an_epoch(own_folder):
    run = small(set={**SMALL, "train.checkpoint_every": 1, "data.validation": 10})
    assert [run.model(epoch).epoch for epoch in (1, 2)] == [1, 2]
    accuracy, loss = run.history["validation_accuracy"], run.history["validation_loss"]
    best = max((1, 2), key=lambda epoch: (accuracy[epoch - 1], -loss[epoch - 1]))
    assert run.model().epoch == best == crescendo.load(run.folder).epoch
    with pytest.raises(ValueError, match="has no checkpoint 7, only 1, 2"):
        run.model(7)


def test_a_run_shows_itself_in_a_notebook():
    run = small(out="a<b")
    shown = run._repr_html_()
    assert "<svg" in shown and "test accuracy" in shown and "a&lt;b" in shown and "a<b" not in shown
    assert shown.count("<polyline") == 2


def test_progress_is_a_line_an_epoch_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    small(progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    assert "loss " in lines[0] and "test " in lines[0]


def test_progress_is_tqdms_bar_where_it_is_installed(capsys, needs):
    needs("tqdm")
    small(progress=True)
    shown = capsys.readouterr().err
    assert "Epoch 2/2" in shown and "100%" in shown and "loss=" in shown
    small()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_predicts_and_trains():
    script = """
        import os, sys, crescendo, numpy as np
        from test_train import small
        model = small().model()
        x = np.zeros((600, 32, 32, 3), np.uint8)
        before = model.predict_proba(x)
        child = os.fork()
        if child == 0:
            same = np.array_equal(model.predict_proba(x), before)
            del model
            again = small().model()
            os._exit(0 if same and np.array_equal(again.predict_proba(x), before) else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, timeout=60)
    assert done.returncode == 0


def test_a_signal_of_ones_own_is_handled_while_a_run_trains():
    if not hasattr(signal, "setitimer"):
        pytest.skip("there is no setitimer on this system")
    calls = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        small(epochs=20)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(calls) == 1
