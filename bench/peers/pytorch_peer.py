"""Trains and runs the report's network, or fast94's, in PyTorch with random data, for run.py.

On a GPU a whole update is one CUDA graph, with a fused optimiser. It is driven by lines on standard input: `train K` does K whole training steps, `infer K` K forward
passes in evaluation mode, `quit` ends it. Each is answered with one line of JSON.
"""

import argparse
import dataclasses
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
# The types that autocast computes in; none with the others.
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Small gradients are zero in fp16, so the loss is multiplied by this; that costs no time.
FP16_SCALE = 1024.0


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


def peak_device_bytes():
    """The most memory of the GPU that PyTorch ever held."""
    return torch.cuda.max_memory_reserved()


def in_graph(step):
    """`step` as one CUDA graph: a function that runs it, and what it returned, always in the same
    tensors."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, chooses algorithms, makes the momentum buffers
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


def say(value):
    print(json.dumps(value), flush=True)


class Peer:
    """The network, its optimiser and its data, in one configuration."""

    def __init__(self, options):
        torch.manual_seed(0)
        self.options = options
        self.on_gpu = options.device == "cuda"
        self.format = (
            torch.channels_last if options.layout == "channels_last" else torch.contiguous_format
        )
        self.images = self.random_images(options.batch)
        self.labels = torch.randint(CLASSES, (options.batch,))
        self.network = Network() if options.recipe == "report" else airbench.Network()
        if options.recipe == "fast94":
            airbench.initialise(self.network, self.images)
        self.images = self.images.to(options.device)
        self.labels = self.labels.to(options.device)
        self.network.to(options.device, memory_format=self.format)
        self.forward = torch.compile(self.network) if options.mode == "compile" else self.network
        self.scale = FP16_SCALE if options.dtype == "fp16" else None
        if options.recipe == "report":
            # Gradients that are so many times as large need a rate that is as many times smaller.
            scale = self.scale or 1.0
            self.optimizer = torch.optim.SGD(
                self.network.parameters(),
                lr=0.1 / scale,
                momentum=0.9,
                weight_decay=2e-4 * scale,
                fused=self.on_gpu or None,
            )
            self.loss = torch.nn.CrossEntropyLoss()
            self.step = self.report_step
        else:
            # No schedule: the whitening's bias is trained, as in the recipe's first epochs.
            self.step = airbench.Trainer(
                self.network,
                self.airbench_rule(),
                forward=self.forward,
                autocast=AUTOCAST.get(options.dtype),
                loss_scale=self.scale,
            ).step
        self.replay = None  # the update as a CUDA graph, and its loss
        self.infer_images = None  # made when first asked for: training alone shall not pay for it
        self.infer_replay = None

    def airbench_rule(self):
        rule = airbench.Rule()
        if self.on_gpu and self.options.mode == "compile":
            airbench.orthogonalise = torch.compile(airbench.orthogonalise, dynamic=False)
        scale = self.scale or 1.0  # Muon does not depend on it
        return dataclasses.replace(
            rule,
            bias_lr=rule.bias_lr / scale,
            bias_decay=rule.bias_decay * scale,
            head_lr=rule.head_lr / scale,
            head_decay=rule.head_decay * scale,
        )

    def random_images(self, count):
        images = torch.randn(count, IMAGE_CHANNELS, IMAGE_SIDE, IMAGE_SIDE)
        return images.to(memory_format=self.format)

    def autocast(self):
        dtype = AUTOCAST.get(self.options.dtype)
        return torch.autocast(self.options.device, dtype, enabled=bool(dtype))

    def report_step(self, images, labels):
        with self.autocast():
            logits = self.forward(images)
            loss = self.loss(logits, labels)
        (loss if self.scale is None else loss * self.scale).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, logits

    def train(self, steps):
        """`steps` whole updates; the loss of the last. On a CPU its value is read in every step, as
        a training program does; on a GPU at the end, so that it never waits."""
        self.network.train()
        if self.on_gpu:
            if self.replay is None:
                self.replay = in_graph(lambda: self.step(self.images, self.labels)[0].detach())
            replay, loss = self.replay
            for _ in range(steps):
                replay()
            return loss.item()
        last = None
        for _ in range(steps):
            loss, _ = self.step(self.images, self.labels)
            last = loss.item()
        return last

    def infer(self, passes):
        self.network.eval()
        if self.on_gpu:
            return self.infer_on_gpu(passes)
        with torch.inference_mode(), self.autocast():
            if self.infer_images is None:
                self.infer_images = self.random_images(self.options.infer_batch)
                self.forward(self.infer_images)  # warm-up
                self.forward(self.infer_images)
            for _ in range(passes):
                self.forward(self.infer_images)

    def infer_on_gpu(self, passes):
        if self.infer_images is None:
            self.infer_images = self.random_images(self.options.infer_batch).cuda()

            def forward():
                with self.autocast():  # whose copies of the weights live as long as it
                    return self.forward(self.infer_images)

            with torch.inference_mode():
                self.infer_replay, _ = in_graph(forward)
            self.infer_replay()
        for _ in range(passes):
            self.infer_replay()
        torch.cuda.synchronize()


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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=positive, help="of the CPU; needed there")
    parser.add_argument("--layout", choices=["channels_last", "nchw"], default="channels_last")
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument(
        "--dtype",
        choices=["f32", "tf32", "bf16", "fp16"],
        default="f32",
        help="tf32 and fp16 on a GPU only",
    )
    options = parser.parse_args()
    if options.device == "cpu" and options.threads is None:
        parser.error("--threads says how many")
    if options.device == "cpu" and options.dtype in ("tf32", "fp16"):
        parser.error(f"--dtype {options.dtype} needs --device cuda")
    return options


def prepare(options):
    """Settings of PyTorch that are the process's; what the configuration is called."""
    torch.set_flush_denormal(True)
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
        return {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    if not torch.cuda.is_available():
        raise SystemExit("error: PyTorch finds no GPU that it can use")
    torch.backends.cudnn.benchmark = True
    is_f32 = options.dtype == "f32"
    torch.backends.cudnn.allow_tf32 = not is_f32
    # Muon's products are in f32, whatever autocast says.
    torch.set_float32_matmul_precision("highest" if is_f32 else "high")
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


def main():
    options = parse()
    told = prepare(options)
    if options.recipe == "report":
        check_report_size()
    peer = Peer(options)
    peer.train(max(1, WARM_UP // options.batch))
    config = vars(options) | told
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
        if peer.on_gpu:
            answer["peak_device_bytes"] = peak_device_bytes()
        if loss is not None and math.isfinite(loss):  # other values are not JSON
            answer["loss"] = loss
        say(answer)


if __name__ == "__main__":
    main()
