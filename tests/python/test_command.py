"""The command ``crescendo`` of the package: the program, with its exit codes, pipes and signals."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import crescendo
import pytest
from conftest import SMALL, program

QUICK = "--data shapes:60,20 --set network.widths=[4,4,4] --set batch.steps=[[1,10]]"


def run(arguments, **more):
    return subprocess.run([program(), *arguments.split()], capture_output=True, text=True, timeout=60, **more)


def test_exit_codes_and_output_are_the_programs():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"crescendo {crescendo.__version__}\n", "")
    assert "Usage: crescendo train" in run("train --help").stdout
    for arguments, code, part in [
        ("", 2, "Usage: crescendo"),
        ("train --frobnicate", 2, "--frobnicate"),
        ("train --lr 0.1", 2, "write --set optimizer.learning_rate=0.1"),
        ("train quikc", 2, "there is no recipe quikc"),
        ("evaluate nowhere", 1, "nowhere"),
    ]:
        done = run(arguments)
        assert (done.returncode, done.stdout) == (code, "") and part in done.stderr, done
    assert run("recipes").stdout.startswith("report")
    as_module = subprocess.run([sys.executable, "-m", "crescendo", "recipes"], capture_output=True, text=True)
    assert as_module.stdout == run("recipes").stdout


def test_a_run_from_the_command_line(own_folder):
    arguments = f"train quick --epochs 1 {QUICK}"
    done = run(arguments)
    assert done.returncode == 0 and "Test accuracy: " in done.stdout and done.stderr == ""
    assert crescendo.Run("runs/quick-1").model().epoch == 1
    recorded = json.loads(Path("runs/quick-1/run.json").read_text())["command"]
    assert shlex.split(recorded) == ["crescendo", *arguments.split()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes that close like this")
def test_a_reader_that_closes_the_pipe_is_no_error():
    for command in (f"{program()} recipes report | head -1", f"{program()} train quick --epochs 1 {QUICK} | true"):
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done


def test_the_command_does_not_import_numpy():
    script = "import sys; from crescendo import _command; sys.argv[1:] = ['recipes']; import atexit; "
    script += "atexit.register(lambda: print('numpy' in sys.modules)); _command.main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.endswith("False\n")


def test_the_command_starts_at_once():
    def seconds(command):
        begin = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - begin

    command = min(seconds([program(), "--version"]) for _ in range(10))
    python = min(seconds([sys.executable, "-c", ""]) for _ in range(10))
    # 50 ms where Python itself takes 15.
    assert command < python + 0.1, f"{command} s, Python alone {python} s"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT on Windows")
@pytest.mark.parametrize(
    "arguments, begun",
    [
        (f"train quick --epochs 100000 {QUICK}", "Epoch 1 "),
        ("compare grow-or-decay --data shapes:1200,20 --set network.widths=[4,4,4] --set train.epochs=100000", "1 of"),
        ("bench quick --seconds 60 --set network.widths=[4,4,4]", ""),
        ("evaluate run --data shapes:50000,20000", ""),
        ("predict run -", ""),
        ("plan report --steps", ""),
    ],
)
def test_ctrl_c_ends_every_command(arguments, begun, own_folder):
    if " run" in arguments:
        crescendo.train("quick", data="shapes:60,20", epochs=1, set=SMALL, out="run", progress=False)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [program(), *arguments.split()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment,
    )  # fmt: skip
    if begun:
        while begun not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
    else:
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=30)
    # A command that stops in order says so by its exit code; others are ended by the signal, if they are not done.
    assert code == 130 if begun else code in (-signal.SIGINT, 0), (code, process.stderr.read())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT on Windows")
def test_ctrl_c_ends_a_download():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar.tar.gz"
        process = subprocess.Popen(
            [program(), "data", "fetch", "--url", url, "--dir", "data"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # It waits for an answer now, which never comes.
        connection, _ = server.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == -signal.SIGINT


def test_what_ignores_ctrl_c_goes_on_ignoring_it():
    if sys.platform == "win32":
        pytest.skip("there is no SIGINT on Windows")
    ignoring = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    process = subprocess.Popen(
        [program(), "bench", "quick", "--seconds", "1", "--set", "network.widths=[4,4,4]"],
        stdout=subprocess.DEVNULL,
        preexec_fn=ignoring,
    )
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert Path(program()).exists()
