

class Group(nn.Module):
    """Two or three convolutions, the first with max-pooling; around the others of three there is a shortcut."""

    def __init__(self, count, inputs, outputs):
        super().__init__()
        self.count = count
        for number in range(1, count + 1):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=BIAS)
            self.add_module(f"conv{number}", convolution)
            norm = nn.BatchNorm2d(outputs, eps=NORM_EPS, momentum=NORM_MOMENTUM)
            self.add_module(f"norm{number}", norm)
            inputs = outputs

    def forward(self, x):
        x = shortcut = activation(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        x = self.norm2(self.conv2(x))
        if self.count == 3:
            x = self.norm3(self.conv3(activation(x))) + shortcut
        return activation(x)


class Network(nn.Module):
    """From normalised images, float32 [N, 3, 32, 32], to logits, [N, len(CLASSES)]."""

    def __init__(self):
        super().__init__()
        width = 2 * 3 * WHITENING**2
        self.whiten = nn.Conv2d(3, width, WHITENING)
        groups = {}
        for index, (count, outputs) in enumerate(zip(BLOCKS, WIDTHS), 1):
            groups[str(index)] = Group(count, width, outputs)
            width = outputs
        self.layers = nn.ModuleDict(groups)
        self.head = nn.Linear(FEATURES, len(CLASSES), bias=BIAS)

    def forward(self, x):
        x = activation(self.whiten(x))
        for group in self.layers.values():
            x = group(x)
        return self.head(F.max_pool2d(x, POOL).flatten(1)) * LOGIT_SCALE
