"""What the training programs share: the command line, the weights and the images they read."""

import dataclasses

import numpy as np
import torch
from safetensors.torch import load_file

from model import IMAGE_CHANNELS, IMAGE_SIDE

IMAGE_BYTES = IMAGE_CHANNELS * IMAGE_SIDE**2
RECORD_BYTES = 1 + IMAGE_BYTES
DTYPES = {"f32": torch.float32, "f64": torch.float64}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TRAINING_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
TEST_FILES = ["test_batch.bin"]


def numbers(text):
    """Whole numbers separated by commas."""
    return tuple(map(int, text.split(",")))


def add_fields(parser, config, what):
    """An option for each field of a dataclass, with the field's name and default."""
    for field in dataclasses.fields(config):
        kind = numbers if isinstance(field.default, tuple) else type(field.default)
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=kind, default=field.default, help=what)


def fields_of(arguments, config):
    """The dataclass that `add_fields` gave the options of."""
    names = [field.name for field in dataclasses.fields(config)]
    return config(**{name: getattr(arguments, name) for name in names})


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


def read_records(folder, count=None, files=TRAINING_FILES):
    """The first `count` records of a CIFAR-10 binary folder, or all of them: (count, 3073) bytes,
    in each a label and an image."""
    try:
        data = np.concatenate([np.fromfile(folder / name, np.uint8) for name in files])
    except OSError as error:
        raise SystemExit(f"{folder}: not a CIFAR-10 binary folder: {error}") from error
    if count is None:
        count = len(data) // RECORD_BYTES
        if len(data) != count * RECORD_BYTES:
            raise SystemExit(f"{folder}: {', '.join(files)} do not hold whole records")
    if len(data) < count * RECORD_BYTES:
        raise SystemExit(f"{folder}: fewer than {count} images")
    return data[: count * RECORD_BYTES].reshape(count, RECORD_BYTES)


def split(records):
    """Images (N, 3, 32, 32) of bytes and labels of int64."""
    images = records[:, 1:].reshape(-1, IMAGE_CHANNELS, IMAGE_SIDE, IMAGE_SIDE)
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


