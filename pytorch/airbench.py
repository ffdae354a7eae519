"""Trains an airbench network on a CIFAR-10 binary folder, as the recipe fast94 does.

The recipe is that of airbench94_muon in Keller Jordan's cifar10-airbench, with the mean of the
losses of a batch where that has their sum. With --steps it takes the images in file order, without
augmentation, and prints the loss of each step: what any other program must get from the same
weights and images. The defaults are the recipe's.
"""

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common import (
    DTYPES,
    FORMATS,
    TEST_FILES,
    add_fields,
    fields_of,
    load_weights,
    read_records,
    split,
)
from model import IMAGE_CHANNELS, IMAGE_SIDE

WHITEN_IMAGES = 5000
WHITEN_EPS = 5e-4
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_EPS = 1e-7
MARGIN = 2  # pixels that a crop may be off the image, over its reflection
EVALUATION_BATCH = 1000


# --- the network ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What a network looks like; the defaults are fast94's."""

    blocks: tuple[int, ...] = (2, 2, 2)  # convolutions in each group, 2 or 3
    widths: tuple[int, ...] = (64, 256, 256)
    whiten: int = 2  # side of the whitening filters
    pool: int = 3  # of the head
    scale: float = 1 / 256  # of the logits
    bn_eps: float = 1e-12
    bn_momentum: float = 0.4  # PyTorch's convention: the weight of the batch
    classes: int = 10

    @property
    def whitened(self):
        """Channels of the whitening: every filter and its negative."""
        return 2 * IMAGE_CHANNELS * self.whiten**2


class Group(nn.Module):
    """Two or three 3x3 convolutions of one width; the first halves the image.

    Of three, what went into the second is added before the last activation.
    """

    def __init__(self, count, inputs, outputs, config):
        super().__init__()
        self.count = count
        self.pool = nn.MaxPool2d(2)
        self.activation = nn.GELU()
        for number in range(1, count + 1):
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            norm = nn.BatchNorm2d(outputs, eps=config.bn_eps, momentum=config.bn_momentum)
            norm.weight.requires_grad_(False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"norm{number}", norm)
            inputs = outputs

    def forward(self, x):
        x = shortcut = self.activation(self.norm1(self.pool(self.conv1(x))))
        x = self.norm2(self.conv2(x))
        if self.count == 3:
            x = self.norm3(self.conv3(self.activation(x))) + shortcut
        return self.activation(x)


class Network(nn.Module):
    """The whole network: images (N, 3, 32, 32) to logits (N, classes)."""

    def __init__(self, config=Config()):
        super().__init__()
        if not config.blocks or len(config.blocks) != len(config.widths):
            raise ValueError("blocks and widths must have one entry for each group")
        if not set(config.blocks) <= {2, 3}:
            raise ValueError("a group has 2 or 3 convolutions")
        self.scale = config.scale
        self.whiten = nn.Conv2d(IMAGE_CHANNELS, config.whitened, config.whiten)
        self.whiten.weight.requires_grad_(False)
        width, side = config.whitened, IMAGE_SIDE - config.whiten + 1
        layers = [nn.GELU()]
        for count, outputs in zip(config.blocks, config.widths):
            layers.append(Group(count, width, outputs, config))
            width, side = outputs, side // 2
        layers.append(nn.MaxPool2d(config.pool))
        side //= config.pool
        if side == 0:
            raise ValueError(f"nothing is left of the image after {len(config.blocks)} groups")
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width * side**2, config.classes, bias=False)

    def forward(self, x):
        return self.head(self.layers(self.whiten(x)).flatten(1)) * self.scale


@torch.no_grad()
def whitening(images, side):
    """Filters whose answers to the patches of `images` are uncorrelated, and their negatives.

    The signs of the filters are those of the eigenvectors, which are LAPACK's choice.
    """
    patches = F.unfold(images.double(), side)  # (images, values of a patch, patches)
    covariance = torch.bmm(patches, patches.mT).mean(0) / patches.size(2)
    eigenvalues, vectors = torch.linalg.eigh(covariance)  # ascending
    filters = vectors / torch.sqrt(eigenvalues + WHITEN_EPS)
    filters = filters.T.reshape(-1, images.size(1), side, side)
    return torch.cat((filters, -filters))


@torch.no_grad()
def initialise(net, images):
    """The weights that training begins with: over PyTorch's, which `net` was made with.

    The convolutions of the groups begin by passing their input on.
    """
    net.whiten.weight.copy_(whitening(images, net.whiten.kernel_size[0]))
    for weight in filters_of(net):
        nn.init.dirac_(weight[: weight.size(1)])
    net.head.weight.div_(net.head.weight.std())


def filters_of(net):
    """The weights of the groups' convolutions."""
    return [weight for weight in net.layers.parameters() if weight.dim() == 4]


# --- the optimisers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How a network is trained; the defaults are fast94's, for batches of 2000.

    A sum of losses has gradients 2000 times as large as their mean: airbench's learning rates
    of 0.053 and 0.67 are 106 and 1340 here, and 2000 times as small a decay is as strong.
    """

    label_smoothing: float = 0.2
    muon_lr: float = 0.24  # of the groups' filters
    muon_momentum: float = 0.6
    muon_steps: int = 3  # of Newton and Schulz
    bias_lr: float = 106.0  # of the whitening's bias and the normalisations'
    bias_decay: float = 0.004 / 106
    head_lr: float = 1340.0
    head_decay: float = 0.004 / 1340
    momentum: float = 0.85  # of all but the filters


def orthogonalise(matrix, steps):
    """Nearly the orthogonal matrix nearest to `matrix`, by steps of Newton and Schulz."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + NEWTON_SCHULZ_EPS)
    tall = x.size(0) > x.size(1)
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, of which only the directions count; filters keep their norm."""

    def __init__(self, parameters, lr, momentum, steps):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "newton_schulz": steps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(buffer, alpha=group["momentum"])
                update = orthogonalise(update.flatten(1), group["newton_schulz"])
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(update.view_as(weight), alpha=group["lr"])


class Trainer:
    """A network with its optimisers and their schedule.

    Every learning rate falls linearly to 0 at `total_steps`, that of the whitening's bias at
    `whiten_steps`, after which it is not trained; without them the rates stay as they are.
    `forward` is the network where that is compiled. `autocast` is the type that autocast computes
    in, if it shall. The gradients are those of the loss times `loss_scale`.
    """

    def __init__(
        self,
        net,
        rule,
        total_steps=None,
        whiten_steps=None,
        forward=None,
        autocast=None,
        loss_scale=None,
    ):
        self.net = net
        self.rule = rule
        self.whiten_steps = whiten_steps
        self.forward = net if forward is None else forward
        self.autocast = autocast
        self.loss_scale = loss_scale
        self.steps_done = 0
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        bias = {"lr": rule.bias_lr, "weight_decay": rule.bias_decay}
        head = {"lr": rule.head_lr, "weight_decay": rule.head_decay}
        groups = [
            {"params": [net.whiten.bias], "steps": whiten_steps, **bias},
            {"params": [norm.bias for norm in norms], "steps": total_steps, **bias},
            {"params": [net.head.weight], "steps": total_steps, **head},
        ]
        filters = [{"params": filters_of(net), "steps": total_steps}]
        self.optimizers = [
            Muon(filters, rule.muon_lr, rule.muon_momentum, rule.muon_steps),
            torch.optim.SGD(
                groups,
                momentum=rule.momentum,
                nesterov=True,
                fused=net.head.weight.is_cuda or None,
            ),
        ]
        for group in self.groups():
            group["full_lr"] = group["lr"]

    def groups(self):
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def momentum(self, parameter):
        """The momentum of a trained parameter, once there is one."""
        states = (optimizer.state.get(parameter) for optimizer in self.optimizers)
        return next(state["momentum_buffer"] for state in states if state)

    def gradients(self, images, labels):
        """The loss and the logits of a batch; leaves the gradients in the parameters."""
        with torch.autocast(images.device.type, self.autocast, enabled=bool(self.autocast)):
            logits = self.forward(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.rule.label_smoothing)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        (loss if self.loss_scale is None else loss * self.loss_scale).backward()
        return loss, logits

    def step(self, images, labels):
        """One whole update; returns the loss and the logits before it."""
        for group in self.groups():
            if group["steps"]:
                left = max(0.0, 1 - (self.steps_done + 0.5) / group["steps"])
                group["lr"] = group["full_lr"] * left
        if self.whiten_steps is not None and self.steps_done >= self.whiten_steps:
            # Backward then ends before the first group's first convolution.
            self.net.whiten.bias.requires_grad_(False)
        result = self.gradients(images, labels)
        for optimizer in self.optimizers:
            optimizer.step()
        self.steps_done += 1
        return result

    def warm_up(self, images, labels):
        """Lets everything that step() needs be compiled; nothing is learnt."""
        state = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        bias = self.net.whiten.bias
        for trained in (True, False):
            bias.requires_grad_(trained)
            self.gradients(images, labels)
        bias.requires_grad_(True)
        self.net.load_state_dict(state)


# --- the images -----------------------------------------------------------------------------------


class Normalisation:
    """Bytes to what the network sees: less the mean, over the deviation, of each channel."""

    def __init__(self, pixels, dtype, memory_format):
        """`pixels` are the training set's, as an array."""
        mean, deviation = [], []
        for values in np.moveaxis(pixels, 1, 0):
            # Whole numbers, so that these are exact.
            total = int(values.sum(dtype=np.int64))
            squares = int(np.square(values, dtype=np.uint16).sum(dtype=np.int64))
            mean.append(total / values.size)
            # A channel of one value has no deviation to divide by; it becomes 0.
            variance = (values.size * squares - total**2) / values.size**2
            deviation.append(variance**0.5 or 1.0)
        self.mean = torch.tensor(mean, dtype=dtype).view(-1, 1, 1)
        self.deviation = torch.tensor(deviation, dtype=dtype).view(-1, 1, 1)
        self.format = {"dtype": dtype, "memory_format": memory_format}

    def __call__(self, pixels):
        images = pixels.to(**self.format).sub_(self.mean).div_(self.deviation)
        # Other programs begin from float32, even where this one goes on in float64.
        return images.float().to(images.dtype)


class Augmentation:
    """The training images in random order, each at a random place and flipped in every other
    epoch."""

    def __init__(self, pixels, labels, batch):
        margins = [(0, 0), (0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)]
        padded = torch.from_numpy(np.pad(pixels, margins, mode="reflect"))
        # A view of all crops of all images: (images, channels, y, x, side, side).
        self.crops = padded.unfold(2, IMAGE_SIDE, 1).unfold(3, IMAGE_SIDE, 1)
        self.labels = labels
        self.batch = batch
        self.flipped = torch.rand(len(labels)) < 0.5

    def epoch(self, number):
        """Batches of bytes and labels; the last incomplete one is left out."""
        order = torch.randperm(len(self.labels))
        for chosen in order[: len(order) // self.batch * self.batch].split(self.batch):
            y, x = torch.randint(2 * MARGIN + 1, (2, self.batch))
            pixels = self.crops[chosen, :, y, x]
            flip = self.flipped[chosen] ^ (number % 2 == 1)
            pixels[flip] = pixels[flip].flip(3)
            yield pixels, self.labels[chosen]


def six_views(net, images):
    """Logits of the image, half, and of it shifted by a pixel each way; each with its mirror
    image."""

    def mirrored(images):
        return (net(images) + net(images.flip(3))) / 2

    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = mirrored(padded[..., :-2, :-2]) + mirrored(padded[..., 2:, 2:])
    return mirrored(images) / 2 + shifted / 4


@torch.inference_mode()
def accuracy(net, pixels, labels, normalise, views=1, autocast=False):
    """The share of the images that `net` knows."""
    net.eval()
    correct = 0
    for chosen in torch.arange(len(labels)).split(EVALUATION_BATCH):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            images = normalise(pixels[chosen])
            logits = net(images) if views == 1 else six_views(net, images)
        correct += (logits.argmax(1) == labels[chosen]).sum().item()
    net.train()
    return correct / len(labels)


# --- the run --------------------------------------------------------------------------------------


def parse_arguments():
    """The command line; a network's settings have the names of Config's fields, training's of
    Rule's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("data_dir", type=Path, help="folder of data_batch_1.bin and so on")
    parser.add_argument("--init", type=Path, help="initial state, a safetensors file")
    parser.add_argument("--epochs", type=int, default=9, help="that the schedule is made for")
    parser.add_argument("--whiten-epochs", type=int, default=3, help="train whiten.bias so long")
    parser.add_argument("--max-steps", type=int, help="end after so many steps")
    parser.add_argument(
        "--steps", type=int, help="only print the losses of so many steps, in file order"
    )
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="by default PyTorch's own choice")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--memory-format", choices=FORMATS, default="channels_last")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_fields(parser, Config, "network")
    add_fields(parser, Rule, "training")
    arguments = parser.parse_args()
    if arguments.bf16 and arguments.dtype != "f32":
        parser.error("--bf16 needs --dtype f32")
    return arguments


def follow(trainer, arguments, pixels, labels, normalise):
    """The losses of `--steps` steps on the images in file order."""
    torch.use_deterministic_algorithms(True)
    starts = range(0, len(labels) - arguments.batch + 1, arguments.batch)
    losses = []
    for step in range(arguments.steps):
        chosen = slice(starts[step % len(starts)], starts[step % len(starts)] + arguments.batch)
        loss, _ = trainer.step(normalise(pixels[chosen]), labels[chosen])
        losses.append(loss.item())
        if not arguments.json:
            print(f"step {step + 1}: loss {losses[-1]!r}", flush=True)
    return {"losses": losses}


def train(trainer, arguments, pixels, labels, normalise):
    """Trains and evaluates; the seconds are those of training and augmentation."""
    torch.set_flush_denormal(True)
    test_pixels, test_labels = split(read_records(arguments.data_dir, files=TEST_FILES))
    test = (torch.from_numpy(test_pixels), test_labels, normalise)
    data = Augmentation(pixels, labels, arguments.batch)
    if arguments.compile:
        first = normalise(torch.from_numpy(pixels[: arguments.batch]))
        trainer.warm_up(first, labels[: arguments.batch])
    rows, seconds = [], 0.0
    for epoch in range(arguments.epochs):
        losses, correct = [], 0
        start = time.perf_counter()
        for chosen, answers in data.epoch(epoch):
            loss, logits = trainer.step(normalise(chosen), answers)
            losses.append(loss.item())
            correct += (logits.argmax(1) == answers).sum().item()
            if trainer.steps_done == arguments.max_steps:
                break
        seconds += time.perf_counter() - start
        row = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            "train_accuracy": correct / (len(losses) * arguments.batch),
            "accuracy": accuracy(trainer.net, *test, autocast=arguments.bf16),
            "seconds": seconds,
        }
        rows.append(row)
        if not arguments.json:
            told = "epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.2%}, {seconds:.1f} s"
            print(told.format(**row), flush=True)
        if trainer.steps_done == arguments.max_steps:
            break
    final = accuracy(trainer.net, *test, views=6, autocast=arguments.bf16)
    if not arguments.json:
        print(f"six views: accuracy {final:.2%}")
    return {"epochs": rows, "accuracy_six_views": final, "seconds": seconds}


def main():
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    dtype, memory_format = DTYPES[arguments.dtype], FORMATS[arguments.memory_format]
    records = read_records(arguments.data_dir)
    pixels, labels = split(records)
    epoch_steps = len(labels) // arguments.batch
    if epoch_steps == 0:
        raise SystemExit(f"{len(labels)} images do not fill a batch: give a smaller --batch")
    normalise = Normalisation(pixels, dtype, memory_format)
    net = Network(fields_of(arguments, Config)).to(dtype)
    if arguments.init:
        load_weights(net, arguments.init)
    else:
        initialise(net, normalise(torch.from_numpy(pixels[:WHITEN_IMAGES])))
    net = net.to(memory_format=memory_format)
    trainer = Trainer(
        net,
        fields_of(arguments, Rule),
        total_steps=arguments.epochs * epoch_steps,
        whiten_steps=arguments.whiten_epochs * epoch_steps,
        forward=torch.compile(net) if arguments.compile else net,
        autocast=torch.bfloat16 if arguments.bf16 else None,
    )
    if arguments.steps:
        result = follow(trainer, arguments, torch.from_numpy(pixels), labels, normalise)
    else:
        result = train(trainer, arguments, pixels, labels, normalise)
    if arguments.json:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("json", "data_dir")}
        settings |= {
            "records": hashlib.sha256(records).hexdigest(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        if arguments.init:
            settings["init"] = hashlib.sha256(arguments.init.read_bytes()).hexdigest()
        print(json.dumps({"settings": settings, **result}, indent=2))


if __name__ == "__main__":
    main()
