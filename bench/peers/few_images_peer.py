"""Classifies a few images at a time with Crescendo's Python package or with ONNX Runtime, for few_images.py.

It is driven by lines on standard input: `images N` sets how many images a call has and answers with their
probabilities, `infer K` makes K calls and answers with their median seconds, `quit` ends it. Each is answered with one
line of JSON.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np

WARM_UP = 5  # calls before each slice


def crescendo(path, threads):
    """The version, and a function from images to probabilities."""
    import crescendo

    model = crescendo.load(path, device="cpu", threads=threads)
    return crescendo.__version__, model.predict_proba


def onnxruntime(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return onnxruntime.__version__, lambda images: session.run(None, {name: images})[0]


def tell(**values):
    print(json.dumps(values), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program", choices=["crescendo", "onnxruntime"])
    parser.add_argument("file", help="weights, or an ONNX model")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    make = crescendo if options.program == "crescendo" else onnxruntime
    version, probabilities = make(options.file, options.threads)
    tell(version=version, config={"threads": options.threads})
    images = None
    for line in sys.stdin:
        command, *count = line.split()
        if command == "quit":
            break
        if command == "images":
            shape = (int(count[0]), 32, 32, 3)
            images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            tell(probabilities=probabilities(images).tolist())
        if command == "infer":
            seconds = []
            for call in range(WARM_UP + int(count[0])):
                begin = time.perf_counter()
                probabilities(images)
                if call >= WARM_UP:
                    seconds.append(time.perf_counter() - begin)
            tell(seconds=statistics.median(seconds))


if __name__ == "__main__":
    main()
