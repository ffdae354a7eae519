#!/usr/bin/env python3
"""Compares how long Crescendo and ONNX Runtime take for a few images at once, and times one image from a cold start.

Both are called from Python, in a process each, with the same weights, the same bytes of images and the same number of
threads, without further views of an image; both normalise the bytes and give probabilities, which are compared first.
ONNX Runtime computes the model that Crescendo exports. README.md beside this file says how to read the result.
"""

import argparse
import contextlib
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from run import ROOT, TARGET, Failure, Peer, busy_warning, cores, machine, note, run, table

PEER = ROOT / "bench" / "peers" / "few_images_peer.py"
PROGRAMS = ["crescendo", "onnxruntime"]
SECONDS = 1.0  # of a slice
COLD_STARTS = 11
CLOSE = 1e-3  # how much probabilities of the two may differ
# The probabilities are to be those of one view.
ONE_VIEW = ["--set", "data.test_flip=false", "--set", "data.test_shift=0"]


def venv_python():
    """A Python that has ONNX Runtime and this package, which is built anew."""
    folder = TARGET / "bench-few-venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        run("making the virtual environment", [sys.executable, "-m", "venv", folder])
    note("building and installing Crescendo's Python package, and ONNX Runtime")
    run("installing", [python, "-m", "pip", "install", "--quiet", ROOT, "numpy", "onnxruntime"])
    return python


def prepare(python, recipe, folder):
    """Weights that were not trained, which changes no time, and the same as an ONNX model."""
    crescendo = [python, "-m", "crescendo"]
    made = folder / recipe
    train = ["train", recipe, "--epochs", "0", "--data", "shapes:1000,100", "--quiet", "--out", made]
    run("making weights", [*crescendo, *train, *ONE_VIEW])
    weights, model = made / "weights" / "last.safetensors", folder / f"{recipe}.onnx"
    run("exporting", [*crescendo, "export", weights, "--onnx", model, "--fixed"])
    return {"crescendo": weights, "onnxruntime": model}


def png(path):
    """Writes a PNG of 32x32 random pixels."""

    def chunk(name, data):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    rows = b"".join(b"\0" + random.Random(row).randbytes(3 * 32) for row in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def difference(answers):
    ours, theirs = (answer["probabilities"] for answer in answers)
    pairs = zip(ours, theirs)
    return max(abs(a - b) for row, other in pairs for a, b in zip(row, other))


def in_turns(peers, images, options):
    """Milliseconds of a call of each, for each round."""
    answers = [peer.ask("images", images) for peer in peers.values()]
    if difference(answers) > CLOSE:
        raise Failure(f"the probabilities differ by {difference(answers):.1e}")
    # How many calls a slice has.
    calls = {name: peer.ask("infer", 3)["seconds"] for name, peer in peers.items()}
    calls = {name: max(3, round(SECONDS / seconds)) for name, seconds in calls.items()}
    return [
        {name: 1e3 * peer.ask("infer", calls[name])["seconds"] for name, peer in peers.items()}
        for _ in range(options.rounds)
    ]


def cold_start(python, weights, picture, options):
    """Median milliseconds of `crescendo predict` for one picture in a new process; the first does not count."""
    command = [options.ours or python, *([] if options.ours else ["-m", "crescendo"])]
    command += ["predict", weights, picture, "--threads", str(options.threads)]
    seconds = []
    for _ in range(1 + COLD_STARTS):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(seconds[1:])


def measure(options, folder):
    python = options.python or venv_python()
    picture = folder / "picture.png"
    png(picture)
    rows = [["network", "images", "Crescendo, ms", "ONNX Runtime, ms", "ratio"]]
    cold = []
    for recipe in options.recipes:
        files = prepare(python, recipe, folder)
        cold.append((recipe, cold_start(python, files["crescendo"], picture, options)))
        with contextlib.ExitStack() as stack:
            peers = {}
            for name in PROGRAMS:
                command = [python, "-B", PEER, name, files[name], "--threads", options.threads]
                peers[name] = stack.enter_context(contextlib.closing(Peer(name, command)))
            versions = ", ".join(f"{name} {peer.version}" for name, peer in peers.items())
            for images in options.images:
                rounds = in_turns(peers, images, options)
                medians = [statistics.median(r[name] for r in rounds) for name in PROGRAMS]
                ratio = statistics.median(r["onnxruntime"] / r["crescendo"] for r in rounds)
                rows.append([recipe, str(images), *(f"{m:.2f}" for m in medians), f"{ratio:.2f}"])
                note("  ".join(rows[-1]))
    lines = [f"`crescendo predict` of one picture, {name}: {ms:.0f} ms" for name, ms in cold]
    lines.append(f"{versions}; {machine()['cpu']}, {options.threads} threads")
    return table(rows) + "\n\n" + "\n".join(lines)


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=["fast94", "report"])
    parser.add_argument("--images", type=numbers, default=[1, 2, 4, 8], help="at once (1,2,4,8)")
    parser.add_argument("--rounds", type=int, default=7, help="slices of each program (7)")
    parser.add_argument("--threads", type=int, default=cores(), help="one on every processor")
    parser.add_argument("--python", help="a Python that has crescendo and onnxruntime; install none")
    parser.add_argument("--ours", metavar="PROGRAM", help="start this crescendo cold, not Python's")
    options = parser.parse_args()
    warnings = busy_warning("before the start")
    with tempfile.TemporaryDirectory() as folder:
        print(measure(options, Path(folder)))
    for warning in warnings:
        print(f"NOT FAIR: {warning}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
