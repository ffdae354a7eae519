"""The report's ResNet, or a smaller relative of it, as a PyTorch module.

The state names are those of the original program, so that a checkpoint of one loads into the
other. `python model.py` checks the number of parameters of the report's network.
"""

from dataclasses import dataclass

import torch
from torch import nn

IMAGE_SIDE = 32
IMAGE_CHANNELS = 3
REPORT_PARAMETERS = 17_392_394


@dataclass(frozen=True)
class Config:
    """What a network looks like; the defaults are the report's."""

    blocks: tuple[int, ...] = (6, 6, 6)
    widths: tuple[int, ...] = (64, 128, 256)
    activation: str = "leaky_relu"
    slope: float = 0.01  # of leaky_relu, for negative inputs
    bn_eps: float = 1e-5
    # PyTorch's convention, running = (1 - momentum) * running + momentum * batch, so the
    # report's 0.997 all but replaces the running statistics at every step.
    bn_momentum: float = 0.997
    pool: int = 2
    hidden: int = 2048  # 0: no hidden layer in the head
    hidden_activation: str = "sigmoid"
    classes: int = 10


def activation(name, slope):
    """The activation called `name`."""
    match name:
        case "leaky_relu":
            return nn.LeakyReLU(slope)
        case "relu":
            return nn.ReLU()
        case "elu":
            return nn.ELU()
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()
        case "sigmoid":
            return nn.Sigmoid()
    raise ValueError(f"unknown activation {name!r}")


def batch_norm(channels, config):
    """Batch normalisation of `channels` planes."""
    return nn.BatchNorm2d(channels, eps=config.bn_eps, momentum=config.bn_momentum)


class Block(nn.Module):
    """Two 3x3 convolutions; their input is added before the last activation."""

    def __init__(self, inputs, outputs, stride, config):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.bn1 = batch_norm(outputs, config)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = batch_norm(outputs, config)
        self.activation = activation(config.activation, config.slope)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride), batch_norm(outputs, config)
            )

    def forward(self, x):
        y = self.activation(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.activation(y + self.shortcut(x))


class Stack(nn.Module):
    """Blocks of one width; the first may change width and halve the image."""

    def __init__(self, count, inputs, outputs, stride, config):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(outputs if i else inputs, outputs, 1 if i else stride, config)
            for i in range(count)
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Head(nn.Module):
    """Average pooling, then one or two fully connected layers."""

    def __init__(self, inputs, config):
        super().__init__()
        self.pool = nn.AvgPool2d(config.pool)
        if config.hidden:
            self.fc1 = nn.Linear(inputs, config.hidden)
            self.activation = activation(config.hidden_activation, config.slope)
            self.fc2 = nn.Linear(config.hidden, config.classes)
        else:
            self.fc = nn.Linear(inputs, config.classes)

    def forward(self, x):
        x = self.pool(x).flatten(1)
        if hasattr(self, "fc"):
            return self.fc(x)
        return self.fc2(self.activation(self.fc1(x)))


class Network(nn.Module):
    """The whole network: images (N, 3, 32, 32) to logits (N, classes)."""

    def __init__(self, config=Config()):
        super().__init__()
        if not config.blocks or len(config.blocks) != len(config.widths):
            raise ValueError("blocks and widths must have one entry for each stack")
        self.start_layer = nn.Sequential(
            nn.Conv2d(IMAGE_CHANNELS, config.widths[0], 3, padding=1),
            batch_norm(config.widths[0], config),
            activation(config.activation, config.slope),
        )
        self.stack_layers = nn.ModuleList()
        width, side = config.widths[0], IMAGE_SIDE
        for s, (count, outputs) in enumerate(zip(config.blocks, config.widths)):
            stride = 2 if s else 1
            self.stack_layers.append(Stack(count, width, outputs, stride, config))
            width = outputs
            side = -(-side // stride)  # a padded 3x3 convolution rounds up
        self.output_layer = Head(width * (side // config.pool) ** 2, config)

    def forward(self, x):
        x = self.start_layer(x)
        for stack in self.stack_layers:
            x = stack(x)
        return self.output_layer(x)


def check_report_size():
    """Asserts that the default network has as many parameters as the report's."""
    with torch.device("meta"):  # shapes only
        count = sum(p.numel() for p in Network().parameters())
    assert count == REPORT_PARAMETERS, f"{count} parameters, not {REPORT_PARAMETERS}"


if __name__ == "__main__":
    check_report_size()
    print(f"{REPORT_PARAMETERS:,} parameters, as in the report")
