"""Trains from given initial weights on the first images of a CIFAR-10 folder, step by step.

The images are taken in file order and not augmented: the losses are what any other program
must get from the same weights and images. The defaults are the report's network and training.
"""

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from model import IMAGE_CHANNELS, IMAGE_SIDE, Config, Network

IMAGE_BYTES = IMAGE_CHANNELS * IMAGE_SIDE**2
MOMENTUM = 0.9
WEIGHT_DECAY = 2e-4
DTYPES = {"f32": torch.float32, "f64": torch.float64}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def numbers(text):
    """Whole numbers separated by commas."""
    return tuple(map(int, text.split(",")))


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
    for field in dataclasses.fields(Config):
        kind = numbers if isinstance(field.default, tuple) else type(field.default)
        parser.add_argument(
            "--" + field.name.replace("_", "-"), type=kind, default=field.default, help="network"
        )
    return parser.parse_args()


def load_weights(net, path):
    """Loads a state that must have exactly the names, shapes and kinds of number of `net`'s."""
    weights = load_file(path)
    # load_state_dict alone forgives a missing num_batches_tracked and converts any numbers.
    expected = net.state_dict()
    if weights.keys() != expected.keys():
        raise SystemExit(f"{path}: names that differ: {sorted(weights.keys() ^ expected.keys())}")
    for name, tensor in expected.items():
        floating = tensor.is_floating_point()
        dtypes = (torch.float32, torch.float64) if floating else (torch.int64,)
        found = weights[name]
        if found.shape != tensor.shape or found.dtype not in dtypes:
            raise SystemExit(f"{path}: {name} is {found.dtype} {list(found.shape)}")
    net.load_state_dict(weights, strict=True)


def read_records(folder, count):
    """The first `count` records of a CIFAR-10 binary folder: a label and an image's bytes each."""
    files = [(folder / f"data_batch_{number}.bin").read_bytes() for number in range(1, 6)]
    data = b"".join(files)[: count * (1 + IMAGE_BYTES)]
    if len(data) < count * (1 + IMAGE_BYTES):
        raise SystemExit(f"{folder}: fewer than {count} images")
    return np.frombuffer(data, np.uint8).reshape(count, 1 + IMAGE_BYTES)


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
    names = [field.name for field in dataclasses.fields(Config)]
    config = Config(**{name: getattr(arguments, name) for name in names})
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
        batch = records[step * arguments.batch :][: arguments.batch]
        images = standardise(batch[:, 1:].reshape(-1, IMAGE_CHANNELS, IMAGE_SIDE, IMAGE_SIDE))
        images = images.to(dtype).contiguous(memory_format=memory_format)
        labels = torch.from_numpy(batch[:, 0].astype(np.int64))
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
