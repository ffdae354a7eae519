

def convolution(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=BIAS)


def norm(channels):
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


class Block(nn.Module):
    """Two convolutions; their input is added before the last activation."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn1 = norm(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.bn2 = norm(outputs)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, x):
        y = activation(self.bn1(self.conv1(x)))
        return activation(self.bn2(self.conv2(y)) + self.shortcut(x))


class Network(nn.Module):
    """From normalised images, float32 [N, 3, 32, 32], to logits, [N, len(CLASSES)]."""

    def __init__(self):
        super().__init__()
        width = WIDTHS[0]
        self.start_layer = nn.Sequential(convolution(3, width, 3), norm(width))
        self.stack_layers = nn.ModuleList()
        for stack, (count, outputs) in enumerate(zip(BLOCKS, WIDTHS)):
            first = Block(width, outputs, 2 if stack else 1)
            blocks = [first] + [Block(outputs, outputs, 1) for _ in range(count - 1)]
            self.stack_layers.append(nn.ModuleDict({"blocks": nn.Sequential(*blocks)}))
            width = outputs
        last, head = ("fc2", {"fc1": nn.Linear(FEATURES, HIDDEN)}) if HIDDEN else ("fc", {})
        head[last] = nn.Linear(HIDDEN or FEATURES, len(CLASSES), bias=BIAS)
        self.output_layer = nn.ModuleDict(head)

    def forward(self, x):
        x = activation(self.start_layer(x))
        for stack in self.stack_layers:
            x = stack["blocks"](x)
        x = F.avg_pool2d(x, POOL).flatten(1)
        if HIDDEN:
            x = hidden_activation(self.output_layer["fc1"](x))
        return self.output_layer["fc2" if HIDDEN else "fc"](x) * LOGIT_SCALE
