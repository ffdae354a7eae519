"""Trains and runs the report's network, or fast94's, in PyTorch with random data, for run.py.

It is driven by lines on standard input: `train K` does K whole training steps, `infer K` K forward
passes in evaluation mode, `quit` ends it. Each is answered with one line of JSON.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "pytorch"))
import airbench  # noqa: E402
from model import IMAGE_CHANNELS, IMAGE_SIDE, Network, check_report_size  # noqa: E402

WARM_UP = 375  # images, in one step at least
CLASSES = 10


def peak_rss_bytes():
    """The most memory this process ever had, or None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def say(value):
    print(json.dumps(value), flush=True)


class Peer:
    """The network, its optimiser and its data, in one configuration."""

    def __init__(self, options):
        torch.manual_seed(0)
        self.options = options
        self.format = (
            torch.channels_last if options.layout == "channels_last" else torch.contiguous_format
        )
        self.images = self.random_images(options.batch)
        self.labels = torch.randint(CLASSES, (options.batch,))
        self.network = Network() if options.recipe == "report" else airbench.Network()
        self.network.to(memory_format=self.format)
        self.forward = torch.compile(self.network) if options.mode == "compile" else self.network
        if options.recipe == "report":
            self.optimizer = torch.optim.SGD(
                self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4
            )
            self.loss = torch.nn.CrossEntropyLoss()
            self.step = self.report_step
        else:
            airbench.initialise(self.network, self.images)
            # No schedule: the whitening's bias is trained, as in the recipe's first epochs.
            self.step = airbench.Trainer(
                self.network,
                airbench.Rule(),
                forward=self.forward,
                autocast=options.dtype == "bf16",
            ).step
        self.infer_images = None  # made when first asked for: training alone shall not pay for it

    def random_images(self, count):
        images = torch.randn(count, IMAGE_CHANNELS, IMAGE_SIDE, IMAGE_SIDE)
        return images.to(memory_format=self.format)

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.options.dtype == "bf16")

    def report_step(self, images, labels):
        with self.autocast():
            logits = self.forward(images)
            loss = self.loss(logits, labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, logits

    def train(self, steps):
        """`steps` whole updates; the loss of the last, whose value is read in every step, as a
        training program does."""
        self.network.train()
        last = None
        for _ in range(steps):
            loss, _ = self.step(self.images, self.labels)
            last = loss.item()
        return last

    def infer(self, passes):
        self.network.eval()
        with torch.inference_mode(), self.autocast():
            if self.infer_images is None:
                self.infer_images = self.random_images(self.options.infer_batch)
                self.forward(self.infer_images)  # warm-up
                self.forward(self.infer_images)
            for _ in range(passes):
                self.forward(self.infer_images)


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=["report", "fast94"], default="report")
    parser.add_argument("--batch", type=positive, default=125)
    parser.add_argument("--infer-batch", type=positive, default=250)
    parser.add_argument("--threads", type=positive, required=True)
    parser.add_argument("--layout", choices=["channels_last", "nchw"], default="channels_last")
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    return parser.parse_args()


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    if options.recipe == "report":
        check_report_size()
    peer = Peer(options)
    peer.train(max(1, WARM_UP // options.batch))
    config = vars(options) | {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    say({"ready": True, "version": torch.__version__, "config": config})

    for line in sys.stdin:
        match line.split():
            case ["quit"]:
                break
            case ["train", count] if count.isdecimal() and int(count) > 0:
                start = time.perf_counter()
                loss = peer.train(int(count))
                seconds = time.perf_counter() - start
                images = int(count) * options.batch
            case ["infer", count] if count.isdecimal() and int(count) > 0:
                if peer.infer_images is None:
                    peer.infer(0)  # the warm-up, before the clock runs
                start = time.perf_counter()
                peer.infer(int(count))
                seconds = time.perf_counter() - start
                images = int(count) * options.infer_batch
                loss = None
            case _:
                say({"error": f"want `train K`, `infer K` or `quit`, not {line.strip()!r}"})
                continue
        answer = {"images_per_second": images / seconds, "peak_rss_bytes": peak_rss_bytes()}
        if loss is not None and math.isfinite(loss):  # other values are not JSON
            answer["loss"] = loss
        say(answer)


if __name__ == "__main__":
    main()
