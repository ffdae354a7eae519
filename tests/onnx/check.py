"""Compares exported models with what `crescendo predict` says of the same images.

`prepare` writes the images, `onnx` computes a model with ONNX Runtime, `tract` with tract, and `pytorch` an
exported folder with PyTorch. A difference that is too large ends the program with an error.
"""

import argparse
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

SIDE = 32
# Without resizing, of the probabilities.
CLOSE = 1e-5
# With resizing: halves may be rounded differently, because sums are added in another order.
OTHER_BYTES = 0.003
SAME_CLASSES = 0.995


def prepare(arguments):
    """Images in `images.npy`; images of many sizes in `sizes.npz`, and as files in `sizes/train/a`; arrays as
    MNIST's, to train on, in `small.npz`."""
    random = np.random.default_rng(0)
    records = np.fromfile(arguments.records, np.uint8).reshape(-1, 1 + 3 * SIDE**2)
    images = records[:940, 1:]
    noise = random.integers(0, 256, (40, images.shape[1]), np.uint8)
    # Of one colour each, whose deviation is 0.
    plain = np.repeat(random.integers(0, 256, (20, 3), np.uint8), SIDE**2, axis=1)
    np.save("images.npy", np.concatenate([images, noise, plain]))

    small = random.integers(0, 256, (200, 28, 28), np.uint8)
    small[::2] //= 4
    labels = np.arange(200) % 2
    np.savez("small.npz", x_train=small, y_train=labels, x_test=small[:20], y_test=labels[:20])

    sizes = [(1, 1), (1, 40), (40, 1), (2, 3), (28, 28), (28, 30), (32, 32), (31, 33), (64, 64)]
    sizes += [(3333, 2500), (1000, 17), (1500, 2000)]
    while len(sizes) < 500:
        sizes.append(tuple(np.exp(random.uniform(0, np.log(500), 2)).astype(int)))
    for name in ("train/a", "train/b", "test/a", "test/b"):
        Path("sizes", name).mkdir(parents=True)
    arrays = []
    for index, (width, height) in enumerate(sizes):
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        waves = random.uniform(0.5, 9, (3, 2)) / (width, height) * np.pi
        pixels = [np.sin(x * a + index) * np.cos(y * b) for a, b in waves]
        pixels = 128 + 100 * np.stack(pixels, axis=2)
        pixels += random.normal(0, random.choice([0, 2, 30]), pixels.shape)
        arrays.append(pixels.clip(0, 255).astype(np.uint8))
        write_png(f"sizes/train/a/{index:04}.png", arrays[-1])
    np.savez("sizes.npz", *arrays)
    for name in ("train/b", "test/a", "test/b"):
        for index in range(2):
            write_png(f"sizes/{name}/{index}.png", arrays[0])


def write_png(path, pixels):
    """Writes an image `[height, width, 3]` as a PNG file."""
    height, width, _ = pixels.shape
    # Each row begins with the number of its filter: none.
    rows = np.insert(pixels.reshape(height, -1), 0, 0, axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    ]
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            checksum = struct.pack(">I", zlib.crc32(kind + data))
            file.write(struct.pack(">I", len(data)) + kind + data + checksum)


def images_of(path):
    """The images `[N, 32, 32, 3]` of an array as `predict` takes it."""
    return np.load(path).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def images_in(path):
    """The images `[1, height, width, 3]` of many sizes."""
    images = np.load(path)
    for index in range(len(images.files)):
        yield images[f"arr_{index}"][None]


def check(what, ok):
    print(("ok: " if ok else "FAILED: ") + what)
    if not ok:
        sys.exit(1)


def compare(what, found, expected, close):
    """Compares probabilities `[N, classes]`; `close` is the largest difference, if that is limited."""
    check(f"{what}: shape {found.shape}", found.shape == expected.shape)
    farthest = np.abs(found - expected).max()
    same = (found.argmax(1) == expected.argmax(1)).mean()
    if close is None:
        check(f"{what}: {same:.2%} same classes, up to {farthest:.1e} apart", same >= SAME_CLASSES)
    else:
        ok = farthest <= close and same == 1
        check(f"{what}: {same:.2%} same classes, up to {farthest:.1e} apart", ok)


def check_array(arguments, probabilities):
    """Compares images that need no resizing, in batches of several sizes."""
    images = images_of(arguments.array)
    parts = np.split(images, [1, 3, 500])
    found = np.concatenate([probabilities(part) for part in parts])
    compare(f"{len(images)} images", found, np.load(arguments.expected), CLOSE)


def check_sizes(arguments, probabilities):
    """Compares images of many sizes."""
    if arguments.sizes:
        found = np.concatenate([probabilities(image) for image in images_in(arguments.sizes)])
        expected = np.load(arguments.sizes_expected)
        compare(f"{len(found)} sizes", found, expected, None)


def check_bytes(found, expected):
    """Compares resized images, each with the nearest one: `data export` has them in another order."""
    others, most, taken = 0, 0, set()
    for image in found:
        apart = np.abs(expected - image)
        nearest = apart.sum((1, 2, 3)).argmin()
        taken.add(nearest)
        others += (apart[nearest] > 0).sum()
        most = max(most, apart[nearest].max())
    check(f"{len(taken)} resized images", len(taken) == len(found))
    share = others / found.size
    check(f"{share:.3%} other bytes, by up to {most}", share <= OTHER_BYTES and most <= 1)


def onnx(arguments):
    import onnx
    import onnxruntime

    model = onnx.load(arguments.model)
    onnx.checker.check_model(model, full_check=True)
    domains = {(used.domain, used.version) for used in model.opset_import}
    check(f"operations of {domains}", domains == {("", 17)})

    def session(model):
        return onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    plain = session(model)
    check_array(arguments, lambda images: plain.run(["probabilities"], {"image": images})[0])
    check_sizes(arguments, lambda images: plain.run(["probabilities"], {"image": images})[0])
    if arguments.bytes:
        name = "resize/rounded"
        kind = onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        resized = session(model)
        found = [resized.run([name], {"image": image})[0] for image in images_in(arguments.sizes)]
        records = [np.fromfile(path, np.uint8) for path in arguments.bytes]
        records = np.concatenate(records).reshape(-1, 1 + 3 * SIDE**2)
        expected = records[records[:, 0] == 0, 1:].reshape(-1, 3, SIDE, SIDE)
        check_bytes(np.concatenate(found), expected.astype(np.float32))


def tract(arguments):
    import tract

    runnable = tract.onnx().load(arguments.model).into_model().into_runnable()

    def probabilities(images):
        return runnable.run([np.ascontiguousarray(images)])[0].to_numpy()

    check_array(arguments, probabilities)
    check_sizes(arguments, probabilities)


def pytorch(arguments):
    import torch

    sys.path.insert(0, arguments.model)
    import model

    network = model.load(arguments.model)
    check("evaluation mode", not network.training)

    @torch.inference_mode()
    def probabilities(images):
        return network(model.preprocess(images)).double().softmax(1).numpy()

    check_array(arguments, probabilities)
    check_sizes(arguments, probabilities)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare")
    command.add_argument("records", help="a file of CIFAR-10's binary version")
    command.set_defaults(run=prepare)
    for run in (onnx, tract, pytorch):
        command = commands.add_parser(run.__name__)
        command.add_argument("model")
        command.add_argument("--array", required=True)
        command.add_argument("--expected", required=True, help="what `predict` says of them")
        command.add_argument("--sizes", help="images of many sizes")
        command.add_argument("--sizes-expected")
        if run is onnx:
            command.add_argument("--bytes", nargs="*", help="the files as `data export` has them")
        command.set_defaults(run=run)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
