"""Trains from given initial weights on the first images of a CIFAR-10 folder, step by step.

The images are taken in file order and not augmented: the losses are what any other program
must get from the same weights and images. The defaults are the report's network and training.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common import DTYPES, FORMATS, add_fields, fields_of, load_weights, read_records, split
from model import Config, Network

MOMENTUM = 0.9
WEIGHT_DECAY = 2e-4


def parse_arguments():
    """The command line; a network's settings have the names of Config's fields."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="initial state, a safetensors file")
    parser.add_argument("data_dir", type=Path, help="folder of data_batch_1.bin to 5")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--memory-format", choices=FORMATS, default="contiguous")
    parser.add_argument("--threads", type=int, help="by default PyTorch's own choice")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_fields(parser, Config, "network")
    return parser.parse_args()


def standardise(pixels):
    """Images (N, 3, 32, 32) of bytes to float32, each channel with mean 0 and deviation 1.

    A channel of one colour has no deviation to divide by; it becomes 0.
    """
    pixels = pixels.astype(np.float64)
    mean = pixels.mean(axis=(2, 3), keepdims=True)
    deviation = pixels.std(axis=(2, 3), keepdims=True)
    deviation[deviation == 0] = 1
    return torch.from_numpy(((pixels - mean) / deviation).astype(np.float32))


def main():
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    config = fields_of(arguments, Config)
    dtype = DTYPES[arguments.dtype]
    memory_format = FORMATS[arguments.memory_format]

    net = Network(config).to(dtype)
    load_weights(net, arguments.weights)
    net = net.to(memory_format=memory_format)
    records = read_records(arguments.data_dir, arguments.steps * arguments.batch)
    sgd = torch.optim.SGD(
        net.parameters(), lr=arguments.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )

    losses = []
    for step in range(arguments.steps):
        images, labels = split(records[step * arguments.batch :][: arguments.batch])
        images = standardise(images).to(dtype).contiguous(memory_format=memory_format)
        sgd.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        sgd.step()
        losses.append(loss.item())
        if not arguments.json:
            print(f"step {step + 1}: loss {losses[-1]!r}", flush=True)

    if arguments.json:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("json", "data_dir")}
        settings |= {
            "weights": hashlib.sha256(arguments.weights.read_bytes()).hexdigest(),
            "records": hashlib.sha256(records).hexdigest(),
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        print(json.dumps({"settings": settings, "losses": losses}, indent=2))


if __name__ == "__main__":
    main()
