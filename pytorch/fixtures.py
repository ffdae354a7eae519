"""Writes PyTorch's answers for the tests of crates/kernels, crates/conformance and crates/data:
the files of `main`, below.

What goes in is float32, so that a float32 program reads exactly the same numbers; everything
computed from it is computed and stored in float64, but for images(), whose numbers are few steps
from bytes.
"""

import argparse
import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn
from torch.optim import swa_utils

import airbench
from model import IMAGE_CHANNELS, IMAGE_SIDE, Config, Network, check_report_size

# Both chosen among many for their distance from the kinks, see KINK_MARGIN.
SEED = 20
AIRBENCH_SEED = 33
LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 2e-4
BN_EPS = 1e-5
BN_MOMENTUM = 0.997
STEP_BATCH = 6
# Every input of a LeakyReLU in step() is at least this far from 0. Where float32 and float64
# disagree about a sign, that one gradient is a hundred times too large or too small; it
# would be no fault of the program under test, and would be out of any useful tolerance.
# So far apart, too, are the two largest of every square that airbench_step() takes the largest of.
KINK_MARGIN = 1e-5
STEP_CONFIG = Config(blocks=(1, 1, 1), widths=(4, 8, 16), hidden=24)
AIRBENCH_CONFIG = airbench.Config(blocks=(2, 3), widths=(4, 6), scale=0.5)
# Every rate and decay unlike the others, and small enough for a batch of six.
AIRBENCH_RULE = airbench.Rule(
    muon_lr=0.05, bias_lr=0.2, bias_decay=0.02, head_lr=0.1, head_decay=0.03
)
WHITEN_IMAGES = 8
EMA_DECAY = 0.7
# What is left of the average after each update. Of what it began as, nothing.
LOOKAHEAD_DECAYS = (0.0, 0.4, 0.7)
# Updates in which the whitening's bias is trained there.
WHITEN_STEPS = 2
# As small as the families can be; SiLU has no kink.
SIDES_CONFIG = Config(blocks=(1, 1), widths=(2, 3), activation="silu", pool=8, hidden=5)
SIDES_AIRBENCH_CONFIG = airbench.Config(blocks=(2, 3), widths=(3, 2), scale=0.5)
BORDER = 4


def write(path, tensors, metadata):
    """Writes a safetensors file whose bytes depend on nothing but its contents."""
    data = save({name: t.detach().contiguous() for name, t in tensors.items()}, metadata)
    # The library writes the metadata in random order; sorting it keeps the header's length.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
    assert len(text) == end - 8
    path.write_bytes(data[:8] + text + data[end:])


def normal(rng, *shape, scale=1.0, offset=0.0):
    """Normally distributed float32 numbers."""
    return torch.from_numpy((rng.standard_normal(shape) * scale + offset).astype(np.float32))


def uniform(rng, low, high, *shape):
    """Uniformly distributed float32 numbers."""
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


class Layers:
    """Collects cases: `<case>.<tensor>`, and settings as metadata under the same names."""

    def __init__(self, rng):
        self.rng = rng
        self.tensors = {}
        self.metadata = {"seed": str(SEED)}

    def add(self, case, function, inputs, fixed=None, **settings):
        """Runs `function(**inputs, **fixed)`; there is a gradient for each of `inputs`.

        `fixed` tensors have no gradient. Those that `function` changes in place (running
        statistics) are saved again as `<name>_after`.
        """
        fixed = fixed or {}
        for name, tensor in (inputs | fixed).items():
            self.tensors[f"{case}.{name}"] = tensor
        wide = {name: t.double().requires_grad_() for name, t in inputs.items()}
        # Copied because the saved ones must stay as they were.
        state = {n: t.double() if t.is_floating_point() else t for n, t in fixed.items()}
        output = function(**wide, **state)
        # A scalar output is a loss, and nothing is upstream of it.
        upstream = normal(self.rng, *output.shape) if output.dim() else torch.ones(())
        output.backward(upstream.double())

        self.tensors[f"{case}.output"] = output
        self.tensors[f"{case}.grad_output"] = upstream
        for name, tensor in wide.items():
            self.tensors[f"{case}.grad_{name}"] = tensor.grad
        for name, tensor in state.items():
            if not torch.equal(tensor, fixed[name].to(tensor.dtype)):
                self.tensors[f"{case}.{name}_after"] = tensor
        for name, value in settings.items():
            self.metadata[f"{case}.{name}"] = str(value)


def affine(rng, weight_shape):
    """Weight and bias of a convolution or linear layer, at the scale of its initial values."""
    bound = float(np.prod(weight_shape[1:])) ** -0.5
    return {
        "weight": uniform(rng, -bound, bound, *weight_shape),
        "bias": uniform(rng, -bound, bound, weight_shape[0]),
    }


def layers():
    """Every kind of layer by itself: its tensors and its metadata."""
    rng = np.random.default_rng(SEED)
    cases = Layers(rng)

    def conv(case, input_shape, outputs, kernel, stride, padding):
        inputs = {"input": normal(rng, *input_shape)}
        inputs |= affine(rng, (outputs, input_shape[1], kernel, kernel))
        run = partial(F.conv2d, stride=stride, padding=padding)
        cases.add(case, run, inputs, kind="conv", stride=stride, padding=padding)

    # Sizes that no tile or vector divides, then sizes that tiles and vectors fill exactly.
    conv("conv3x3", (2, 3, 7, 5), 4, kernel=3, stride=1, padding=1)
    conv("conv3x3_wide", (2, 16, 8, 8), 16, kernel=3, stride=1, padding=1)
    conv("conv3x3_stride2", (2, 4, 8, 8), 6, kernel=3, stride=2, padding=1)
    conv("conv3x3_stride2_odd", (2, 3, 7, 5), 4, kernel=3, stride=2, padding=1)
    conv("conv1x1_stride2", (2, 4, 8, 8), 6, kernel=1, stride=2, padding=0)
    conv("conv1x1_stride2_odd", (2, 3, 7, 5), 4, kernel=1, stride=2, padding=0)

    for case, training in [("batchnorm_train", True), ("batchnorm_eval", False)]:
        channels = 5
        # Each channel has its own mean and spread, the means several spreads from zero.
        spread = uniform(rng, 0.5, 2.0, 1, channels, 1, 1)
        mean = uniform(rng, -5.0, 5.0, 1, channels, 1, 1)
        inputs = {
            "input": normal(rng, 4, channels, 3, 6) * spread + mean,
            "weight": uniform(rng, 0.5, 1.5, channels),
            "bias": uniform(rng, -0.5, 0.5, channels),
        }
        running = {
            "running_mean": uniform(rng, -5.0, 5.0, channels),
            "running_var": uniform(rng, 0.5, 4.0, channels),
        }
        settings = {"momentum": BN_MOMENTUM, "eps": BN_EPS}
        run = partial(F.batch_norm, training=training, **settings)
        mode = "training" if training else "evaluation"
        cases.add(case, run, inputs, running, kind="batchnorm", mode=mode, **settings)

    def activation(case, function):
        inputs = normal(rng, 2, 3, 5, 7)
        # The kink, where PyTorch's choice of gradient counts, and a careless exp's overflow.
        inputs.view(-1)[:4] = torch.tensor([0.0, -0.0, 100.0, -100.0])
        settings = getattr(function, "keywords", {})
        cases.add(case, function, {"input": inputs}, kind=case, **settings)

    functions = {
        "leaky_relu": partial(F.leaky_relu, negative_slope=0.01),
        "relu": F.relu,
        "elu": partial(F.elu, alpha=1.0),
        "sigmoid": torch.sigmoid,
    }
    for case, function in functions.items():
        activation(case, function)

    pool = partial(F.avg_pool2d, kernel_size=2)
    cases.add("avgpool2x2", pool, {"input": normal(rng, 2, 3, 8, 6)}, kind="avgpool", size=2)

    inputs = {"input": normal(rng, 5, 12)} | affine(rng, (7, 12))
    cases.add("linear", F.linear, inputs, kind="linear")

    # The offset does not change the loss, but a softmax that forgets the maximum overflows.
    for case, offset in [("cross_entropy", 0.0), ("cross_entropy_large", 100.0)]:
        inputs = {"input": normal(rng, 8, 10, scale=2.0, offset=offset)}
        target = {"target": torch.from_numpy(rng.integers(0, 10, 8))}
        cases.add(case, F.cross_entropy, inputs, target, kind="cross_entropy", reduction="mean")

    # Last, so that what was there before stays as it was.
    activation("gelu", F.gelu)
    activation("silu", F.silu)
    inputs = {"input": normal(rng, 8, 10, scale=2.0)}
    target = {"target": torch.from_numpy(rng.integers(0, 10, 8))}
    run = partial(F.cross_entropy, label_smoothing=0.2)
    kind = {"kind": "cross_entropy", "reduction": "mean", "label_smoothing": 0.2}
    cases.add("cross_entropy_smoothed", run, inputs, target, **kind)

    rng = cases.rng = np.random.default_rng(SEED + 2)
    conv("conv2x2_valid", (2, 3, 7, 5), 6, kernel=2, stride=1, padding=0)

    def max_pool(case, size, *shape):
        # Few values, so that most squares have several largest.
        inputs = {"input": torch.from_numpy((rng.integers(-2, 3, shape) / 2).astype(np.float32))}
        cases.add(case, partial(F.max_pool2d, kernel_size=size), inputs, kind="maxpool", size=size)

    max_pool("max_pool2", 2, 2, 4, 7, 6)
    max_pool("max_pool3", 3, 2, 16, 9, 9)

    return cases.tensors, cases.metadata


def vary_norms(rng, net):
    """Makes batch normalisations unlike: weights of one and biases and running means of zero
    would hide mistakes.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            module.weight.data = uniform(rng, 0.5, 1.5, count)
            module.bias.data = uniform(rng, -0.3, 0.3, count)
            module.running_mean = uniform(rng, -0.5, 0.5, count)
            module.running_var = uniform(rng, 0.5, 1.5, count)


def keep(tensors, prefix, named):
    """Adds copies of named tensors as `<prefix>/<name>`."""
    tensors |= {f"{prefix}/{name}": tensor.detach().clone() for name, tensor in named}


def step():
    """Two steps of training of a small network, then its evaluation: tensors and metadata."""
    rng = np.random.default_rng(SEED + 1)
    torch.manual_seed(SEED)
    net = Network(STEP_CONFIG)
    vary_norms(rng, net)
    tensors = {}
    keep(tensors, "before", net.state_dict().items())
    images = normal(rng, STEP_BATCH, 3, 32, 32)
    labels = torch.from_numpy(rng.integers(0, STEP_CONFIG.classes, STEP_BATCH))
    tensors |= {"images": images, "labels": labels}

    def check_margin(_, inputs, __):
        assert inputs[0].abs().min() > KINK_MARGIN, "too near a kink: change SEED"

    for module in net.modules():
        if isinstance(module, nn.LeakyReLU):
            module.register_forward_hook(check_margin)
    net.double()
    images = images.double()
    sgd = torch.optim.SGD(
        net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )

    def train():
        sgd.zero_grad()
        logits = net(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        sgd.step()
        return logits, loss

    parameters = list(net.named_parameters())
    tensors["logits"], tensors["loss"] = train()
    # `sgd` has only read the gradients: these are without the weight decay.
    keep(tensors, "grad", ((name, p.grad) for name, p in parameters))
    keep(tensors, "after", net.state_dict().items())
    keep(tensors, "momentum", ((name, sgd.state[p]["momentum_buffer"]) for name, p in parameters))

    _, tensors["loss2"] = train()
    keep(tensors, "after2", net.state_dict().items())

    net.eval()
    with torch.no_grad():
        tensors["eval_logits"] = net(images)

    settings = dataclasses.asdict(STEP_CONFIG) | {
        "seed": SEED,
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "kink_margin": KINK_MARGIN,
    }
    return tensors, as_text(settings)


def as_text(settings):
    """Settings as metadata; blocks and widths are separated by commas."""

    def text(value):
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return {name: text(value) for name, value in settings.items()}


def coloured(rng, count):
    """Images whose neighbouring pixels and whose channels are alike, as in photographs.

    Whitening such images is well determined: no two eigenvalues are close.
    """
    fine = rng.standard_normal((count, IMAGE_CHANNELS, IMAGE_SIDE, IMAGE_SIDE))
    coarse = rng.standard_normal((count, 1, IMAGE_SIDE // 4, IMAGE_SIDE // 4))
    coarse = coarse.repeat(4, axis=2).repeat(4, axis=3)
    gains = np.array([0.2, 0.3, 0.4]).reshape(-1, 1, 1)
    return torch.from_numpy((coarse + gains * fine).astype(np.float32))


def check_no_ties(module, inputs, _):
    """A hook of maximum pooling, for KINK_MARGIN."""
    planes = inputs[0].flatten(0, 1).unsqueeze(1)
    squares = F.unfold(planes, module.kernel_size, stride=module.stride)
    first, second = squares.topk(2, dim=1).values.unbind(1)
    assert (first - second).min() > KINK_MARGIN, "too near a tie: change AIRBENCH_SEED"


def check_ties(net):
    """Has check_no_ties look at every batch; returns the hooks."""
    poolings = (module for module in net.modules() if isinstance(module, nn.MaxPool2d))
    return [module.register_forward_hook(check_no_ties) for module in poolings]


def airbench_step():
    """Two updates of a small airbench network, its evaluation, and Muon's iterations by themselves:
    tensors and metadata.
    """
    rng = np.random.default_rng(AIRBENCH_SEED)
    torch.manual_seed(AIRBENCH_SEED)
    net = airbench.Network(AIRBENCH_CONFIG)
    patches = coloured(rng, WHITEN_IMAGES)
    # The filters stay PyTorch's: those that only pass their input on would hide mistakes.
    net.whiten.weight.data = airbench.whitening(patches, AIRBENCH_CONFIG.whiten).float()
    vary_norms(rng, net)
    images = coloured(rng, STEP_BATCH)
    labels = torch.from_numpy(rng.integers(0, AIRBENCH_CONFIG.classes, STEP_BATCH))
    tensors = {
        "whiten/images": patches,
        "whiten/weight": airbench.whitening(patches, AIRBENCH_CONFIG.whiten),
        "images": images,
        "labels": labels,
    }
    keep(tensors, "before", net.state_dict().items())
    for shape, size in {"wide": (5, 12), "tall": (12, 5)}.items():
        matrix = normal(rng, *size)
        tensors[f"orthogonalise/{shape}"] = matrix
        tensors[f"orthogonalised/{shape}"] = airbench.orthogonalise(
            matrix.double(), AIRBENCH_RULE.muon_steps
        )

    hooks = check_ties(net)
    net.double()
    images = images.double()
    trainer = airbench.Trainer(net, AIRBENCH_RULE)
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]

    tensors["loss"], tensors["logits"] = trainer.step(images, labels)
    # The optimisers have only read the gradients: these are without the weight decay.
    keep(tensors, "grad", ((name, p.grad) for name, p in trained))
    keep(tensors, "after", net.state_dict().items())
    keep(tensors, "momentum", ((name, trainer.momentum(p)) for name, p in trained))

    tensors["loss2"], _ = trainer.step(images, labels)
    keep(tensors, "after2", net.state_dict().items())

    for hook in hooks:
        hook.remove()
    net.eval()
    with torch.no_grad():
        tensors["eval_logits"] = net(images)
        tensors["views/logits"] = airbench.six_views(net, images)

    keep(tensors, "ema", moving_average(net, tensors))
    keep(tensors, "init", initialised(np.random.default_rng(AIRBENCH_SEED + 1)))

    settings = dataclasses.asdict(AIRBENCH_CONFIG) | dataclasses.asdict(AIRBENCH_RULE)
    settings |= {
        "seed": AIRBENCH_SEED,
        "nesterov": True,
        "whiten_eps": airbench.WHITEN_EPS,
        "newton_schulz": airbench.NEWTON_SCHULZ,
        "newton_schulz_eps": airbench.NEWTON_SCHULZ_EPS,
        "kink_margin": KINK_MARGIN,
        "ema_decay": EMA_DECAY,
    }
    return tensors, as_text(settings)


def is_muon(name):
    """Whether a tensor of airbench_step() is for the kernels' test of Muon."""
    return name.startswith("orthogonalise")


def muon():
    """Matrices before and after Muon's iterations: tensors and metadata."""
    tensors, metadata = airbench_step()
    return {name: tensor for name, tensor in tensors.items() if is_muon(name)}, metadata


def airbench_updates():
    """All else of airbench_step(): tensors and metadata."""
    tensors, metadata = airbench_step()
    return {name: tensor for name, tensor in tensors.items() if not is_muon(name)}, metadata


def moving_average(net, tensors):
    """The moving average of the model before the steps and after each of them."""
    update = swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    average = swa_utils.AveragedModel(net, multi_avg_fn=update, use_buffers=True)
    for moment in ["before", "after", "after2"]:
        state = {name: tensors[f"{moment}/{name}"] for name in net.state_dict()}
        net.load_state_dict(state)
        average.update_parameters(net)
    return average.module.state_dict().items()


def initialised(rng):
    """Weights, and what the initialisations `dirac` and `unit` make of them."""
    for outputs, inputs in [(6, 4), (4, 6)]:
        name = f"dirac/{outputs}x{inputs}"
        weight = normal(rng, outputs, inputs, 3, 3)
        yield f"{name}/before", weight
        yield f"{name}/after", nn.init.dirac_(weight.double()[:inputs])
    weight = normal(rng, 10, 6, offset=0.3)
    yield "unit/before", weight
    yield "unit/after", weight.double() / weight.double().std()


def smaller_airbench():
    """A network for images of 24x24 pixels: its head pools over smaller squares."""
    net = airbench.Network(SIDES_AIRBENCH_CONFIG)
    net.layers[-1] = nn.MaxPool2d(2)
    check_ties(net)
    return net


def sides():
    """Losses and gradients of networks for images of other sides than 32: tensors and metadata."""
    rng = np.random.default_rng(SEED + 3)
    torch.manual_seed(SEED + 3)
    resnet = Network(SIDES_CONFIG)
    resnet.output_layer.pool = nn.AvgPool2d(4)
    tensors = {}
    for family, net, side in [("resnet", resnet, 16), ("airbench", smaller_airbench(), 24)]:
        vary_norms(rng, net)
        keep(tensors, f"{family}/before", net.state_dict().items())
        images = normal(rng, 3, IMAGE_CHANNELS, side, side)
        labels = torch.from_numpy(rng.integers(0, 10, 3))
        loss = F.cross_entropy(net.double()(images.double()), labels)
        loss.backward()
        tensors |= {f"{family}/images": images, f"{family}/labels": labels, f"{family}/loss": loss}
        trained = ((name, p.grad) for name, p in net.named_parameters() if p.requires_grad)
        keep(tensors, f"{family}/grad", trained)
    return tensors, as_text({"seed": SEED, "scale": SIDES_AIRBENCH_CONFIG.scale})


def lookahead():
    """Three updates of the airbench network of sides(), after each of which it is set back to its
    average; the whitening's bias is not trained in the third: tensors and metadata.
    """
    start, _ = sides()
    net = smaller_airbench().double()
    net.load_state_dict({name: start[f"airbench/before/{name}"] for name in net.state_dict()})
    trainer = airbench.Trainer(net, AIRBENCH_RULE, whiten_steps=WHITEN_STEPS)
    numbers = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
    average = [tensor.clone() for tensor in numbers]
    tensors = {}
    for decay in LOOKAHEAD_DECAYS:
        batch = start["airbench/images"].double(), start["airbench/labels"]
        tensors["loss"], _ = trainer.step(*batch)
        for mean, tensor in zip(average, numbers):
            mean.lerp_(tensor, 1 - decay)
            tensor.copy_(mean)
    keep(tensors, "after", net.state_dict().items())
    settings = {"decays": LOOKAHEAD_DECAYS, "whiten_steps": WHITEN_STEPS}
    return tensors, as_text(dataclasses.asdict(AIRBENCH_RULE) | settings)


def shrunk(images, side):
    """Images of `side` by `side` pixels, of which each is the mean of the area that it covers."""
    # PyTorch's areas are of whole pixels: where `side` is no divisor, each must first be several.
    several = F.interpolate(images, size=math.lcm(IMAGE_SIDE, side), mode="nearest")
    return F.interpolate(several, size=side, mode="area")


def images():
    """What becomes of images before a network sees them: tensors and metadata."""
    rng = np.random.default_rng(SEED + 4)
    torch.manual_seed(SEED + 4)
    # No mean or deviation of a channel is that of another, or of both images.
    low = np.array([[0, 100, 20], [50, 0, 10]]).reshape(2, 3, 1, 1)
    high = np.array([[256, 180, 60], [90, 130, 200]]).reshape(2, 3, 1, 1)
    size = (2, IMAGE_CHANNELS, IMAGE_SIDE, IMAGE_SIDE)
    pixels = torch.from_numpy(rng.integers(low, high, size, dtype=np.uint8))
    tensors = {"pixels": pixels}
    wide = pixels.double()
    for name, border in {"reflect": {"mode": "reflect"}, "white": {"value": 255.0}}.items():
        padded = F.pad(wide[:1], (BORDER,) * 4, **border)
        tensors[f"padded/{name}"] = padded.byte()
        tensors[f"flipped/{name}"] = padded.flip(3).byte()

    for name, over in {"per_image": (2, 3), "dataset": (0, 2, 3)}.items():
        deviation = wide.std(over, correction=0, keepdim=True)
        normalised = (wide - wide.mean(over, keepdim=True)) / deviation
        tensors[f"normalised/{name}"] = normalised[:1].float()
    for side in (16, 24):
        tensors[f"shrunk/{side}"] = shrunk(normalised[:1], side).float()
    # A hole this large has few places.
    holes = normalised[:1].repeat(4, 1, 1, 1)
    for place, hole in enumerate(holes):
        hole[:, place // 2 :, place % 2 :][:, :31, :31] = 0
    tensors["cut_out/16"] = shrunk(holes, 16).float()

    # Bright on the right: a crop shows which way it lies.
    halves = np.zeros((16, *size[1:]), np.uint8)
    halves[..., IMAGE_SIDE // 2 :] = 255
    data = airbench.Augmentation(halves, torch.arange(len(halves)), len(halves))
    flips = torch.zeros(len(halves), 4, dtype=torch.bool)
    for epoch in range(flips.size(1)):
        for crops, chosen in data.epoch(epoch):
            flips[chosen, epoch] = crops[:, 0, 0, 0] == 255
    tensors["flips"] = flips
    return tensors, as_text({"seed": SEED, "border": BORDER})


FILES = {
    "kernels": {"layers": layers, "muon": muon},
    "conformance": {
        "step": step,
        "airbench": airbench_updates,
        "sides": sides,
        "lookahead": lookahead,
    },
    "data": {"images": images},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crates_dir", type=Path)
    crates_dir = parser.parse_args().crates_dir
    # One thread, so that sums are always added up in the same order.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    check_report_size()
    for crate, files in FILES.items():
        folder = crates_dir / crate / "tests" / "fixtures"
        folder.mkdir(parents=True, exist_ok=True)
        for name, make in files.items():
            path = folder / f"{name}.safetensors"
            write(path, *make())
            print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
