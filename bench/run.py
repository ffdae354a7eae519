#!/usr/bin/env python3
"""Compares the speed of Crescendo and of its peers with the report's network, or fast94's, on the
CPU or on a GPU.

Everything is measured in one run and in turns: in each round one slice of Crescendo and one of
each peer, never two at once, so that a machine whose speed drifts is equally unkind to all.
README.md beside this file says how to read the result.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
REQUIREMENTS = ROOT / "pytorch" / "requirements.txt"
PYTORCH_PEER = ROOT / "bench" / "peers" / "pytorch_peer.py"
BURN_PEER = ROOT / "bench" / "peers" / "burn"
RESULTS = ROOT / "bench" / "results"
# What is measured where the command line does not say: images a training step, seconds of
# training in a slice, peers.
RECIPES = {
    "report": {"batch": 125, "seconds": 6.0, "peers": ["pytorch", "burn"]},
    "fast94": {"batch": 2000, "seconds": 20.0, "peers": ["pytorch"]},
}
PEERS = ["pytorch", "burn"]
DEVICES = ["cpu", "cuda"]
# On a GPU, where a slice is many more steps and only PyTorch has a program.
CUDA = {"seconds": 3.0, "peers": ["pytorch"]}
# What PyTorch is tried in.
LAYOUTS = {"cpu": ["channels_last", "nchw"], "cuda": ["channels_last"]}
DTYPES = {"cpu": ["f32", "bf16"], "cuda": ["bf16", "fp16", "tf32"]}
TITLES = {"pytorch": "PyTorch", "burn": "Burn"}
INFER_BATCH = 250

START_SECONDS = 1800  # a compiling PyTorch may take long until its first answer
ANSWER_SECONDS = 900
INFER_SECONDS = 3.0  # of a peer's slice
BUSY = 0.3  # processors in use by others before the start, above which the run is not fair

# What decides the speed of these kernels, of all the flags a processor reports.
FLAGS = (
    "avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 "
    "amx_tile amx_bf16 asimd bf16 sve"
).split()


class Failure(Exception):
    """Something that a person should read without a traceback."""


def note(text):
    """Progress goes to standard error, so that --json leaves standard output to the result."""
    print(text, file=sys.stderr, flush=True)


# --- building -------------------------------------------------------------------------------------


def run(what, command, **options):
    """Runs `command` to its end with its output on standard error."""
    try:
        code = subprocess.run(command, stdout=sys.stderr, **options).returncode
    except OSError as error:
        raise Failure(f"{what}: cannot start {command[0]}: {error}") from error
    if code != 0:
        raise Failure(f"{what} failed (exit code {code}): {' '.join(map(str, command))}")


def has_pytorch(python):
    """Whether this Python has a PyTorch that finds a GPU."""
    check = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    try:
        done = subprocess.run([python, "-c", check], capture_output=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def python_of_peer(options):
    """The Python that runs PyTorch: the one that is named; on a GPU this one if it has PyTorch."""
    if options.python:
        return options.python
    if options.device == "cuda" and has_pytorch(sys.executable):
        return sys.executable
    return venv_python()


def venv_python():
    """The Python that has PyTorch, as pinned; installs it when it is not there yet."""
    folder = TARGET / "bench-venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "requirements.txt"  # what is installed; written last
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        note("installing PyTorch in target/bench-venv (several GB on Linux), once")
        run("making the virtual environment", [sys.executable, "-m", "venv", "--clear", folder])
        pip = [python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]
        run("installing PyTorch", pip)
        stamp.write_text(wanted)
    return python


def build_ours():
    note("building Crescendo")
    run("building Crescendo", ["cargo", "build", "--release"], cwd=ROOT)
    return TARGET / "release" / ("crescendo.exe" if os.name == "nt" else "crescendo")


def build_burn(isa):
    note("building the Burn peer (a few minutes, once)")
    # The two builds differ in the instructions they may use, and do not overwrite each other.
    target = TARGET / ("bench-burn-avx2" if isa == "avx2" else "bench-burn")
    command = ["cargo", "build", "--release", "--locked", "--target-dir", target]
    cpu = "native"
    if isa == "avx2":
        command.append("--no-default-features")
        cpu = "x86-64-v3"
    environment = os.environ | {"RUSTFLAGS": f"-C target-cpu={cpu}"}
    run("building the Burn peer", command, cwd=BURN_PEER, env=environment)
    return target / "release" / ("burn-peer.exe" if os.name == "nt" else "burn-peer")


# --- peers ----------------------------------------------------------------------------------------


class Peer:
    """A process that trains or infers when told to, and waits without work between."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.errors = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env=os.environ | (environment or {}),
                text=True,
                bufsize=1,
            )
        except OSError as error:
            raise Failure(f"{name}: cannot start {command[0]}: {error}") from error
        try:
            hello = self.answer(START_SECONDS)
        except BaseException:
            self.close()
            raise
        self.version = hello["version"]
        self.config = hello["config"]

    def answer(self, seconds):
        """The next line of JSON. A process that is silent for too long is killed."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            if late:
                raise Failure(f"{self.name}: no answer within {seconds} s")
            code = self.process.wait()
            raise Failure(f"{self.name}: ended with exit code {code}\n{self.last_errors()}")
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise Failure(f"{self.name}: not a line of JSON: {line.strip()!r}") from error
        if "error" in value:
            raise Failure(f"{self.name}: {value['error']}")
        return value

    def last_errors(self, lines=12):
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace").strip()
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

    def ask(self, command, count):
        try:
            self.process.stdin.write(f"{command} {count}\n")
        except OSError:
            pass  # it has ended; answer() says how
        return self.answer(ANSWER_SECONDS)

    def close(self):
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write("quit\n")
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def reason(failure):
    """The line of a failure that says why, for a result that others read: without paths."""
    lines = str(failure).strip().splitlines()
    telling = [line for line in lines if re.match(r"\s*[\w.]+(Error|Exception)\b", line)]
    return re.sub(r"(?:/[^\s/:'\"]+){2,}", "PATH", (telling or lines)[-1].strip())


def steps_for(seconds, images_per_second, batch):
    return max(1, round(seconds * images_per_second / batch))


def pytorch_configurations(device, words):
    """Those that have all of these words in them."""
    for dtype in DTYPES[device]:
        for mode in ["eager", "compile"]:
            for layout in LAYOUTS[device]:
                configuration = {"layout": layout, "mode": mode, "dtype": dtype}
                if set(words) <= set(configuration.values()):
                    yield configuration


def start_pytorch(python, options, configuration):
    command = [python, "-B", PYTORCH_PEER, "--batch", options.batch, "--device", options.device]
    command += ["--threads", options.threads, "--infer-batch", INFER_BATCH, "--recipe", options.recipe]
    for key, value in configuration.items():
        command += [f"--{key}", value]
    environment = {}
    if options.isa == "avx2":
        environment = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    return Peer("PyTorch", command, environment)


def best_pytorch(python, options):
    """PyTorch's fastest configuration, and what each of them gave.

    Each has a process of its own that is ended before the next starts: two at once may need more
    memory than there is.
    """
    configurations = list(pytorch_configurations(options.device, options.only))
    if not configurations:
        raise Failure(f"--only {','.join(options.only)}: PyTorch has no such configuration")
    if len(configurations) == 1:
        return configurations[0], configurations
    trials = []
    for configuration in configurations:
        label = "PyTorch " + ", ".join(configuration.values())
        trial = dict(configuration)
        trials.append(trial)
        try:
            with contextlib.closing(start_pytorch(python, options, configuration)) as peer:
                speed = peer.ask("train", 1)["images_per_second"]
                # A step that takes as long as a trial is one.
                if options.batch / speed < options.seconds:
                    steps = steps_for(options.seconds, speed, options.batch)
                    speed = peer.ask("train", steps)["images_per_second"]
                trial["images_per_second"] = speed
        except Failure as failure:
            trial["error"] = reason(failure)
            note(f"{label}: does not run here, left out: {trial['error']}")
        else:
            note(f"{label}: {trial['images_per_second']:.1f} images/s")
    best = max(trials, key=lambda trial: trial.get("images_per_second", 0.0))
    if "error" in best:
        raise Failure("PyTorch runs in no configuration")
    return {key: best[key] for key in ["layout", "mode", "dtype"]}, trials


# --- slices ---------------------------------------------------------------------------------------


def slice_of_ours(program, options):
    command = [program, "bench", options.recipe, "--batch", options.batch]
    command += ["--device", options.device, "--seconds", options.seconds, "--json"]
    if options.device == "cpu":
        command += ["--threads", options.threads]
    if options.isa:
        command += ["--isa", options.isa]
    if options.precision:
        command += ["--set", f"engine.precision={options.precision}"]
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"Crescendo: no answer within {ANSWER_SECONDS} s") from error
    except OSError as error:
        raise Failure(f"Crescendo: cannot start {program}: {error}") from error
    if done.returncode != 0:
        raise Failure(f"Crescendo: exit code {done.returncode}\n{done.stderr.strip()}")
    try:
        told = json.loads(done.stdout)
        figures = {
            "train": float(told["training"]["images_per_second"]),
            "infer": float(told["inference"]["images_per_second"]),
            "peak_memory_bytes": int(told["peak_memory_bytes"]),
            "peak_gflops": float(told["peak_gflops"]),
            "roof_ratio": float(told["training"]["roof_ratio"]),
        }
        if options.device == "cuda":
            for key in ["product_gflops", "copy_gb_per_second", "floor_seconds"]:
                figures[key] = float(told[key])
            options.gpu = told["device"]
        return figures
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"Crescendo: `bench report --json` does not say {error}") from error


def slice_of_peer(peer, speeds, options):
    """Some seconds of training and of inference. `speeds` is what the slice before gave."""
    if "train" not in speeds:  # a first slice has to find out how many steps take as long
        speeds["train"] = peer.ask("train", 1)["images_per_second"]
    steps = steps_for(options.seconds, speeds["train"], options.batch)
    trained = peer.ask("train", steps)
    if "infer" not in speeds:
        speeds["infer"] = peer.ask("infer", 1)["images_per_second"]
    inferred = peer.ask("infer", steps_for(INFER_SECONDS, speeds["infer"], INFER_BATCH))
    speeds["train"] = trained["images_per_second"]
    speeds["infer"] = inferred["images_per_second"]
    return {
        "train": trained["images_per_second"],
        "infer": inferred["images_per_second"],
        "peak_memory_bytes": trained.get("peak_device_bytes", trained["peak_rss_bytes"]),
    }


# --- the machine ----------------------------------------------------------------------------------


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def version_of(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cores():
    """The processors that this run may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine():
    """What the result depends on, and nothing that tells one machine from another of its kind."""
    cpu = read("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", cpu, re.M)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpu, re.M)
    flags = set(flags[1].split()) if flags else set()
    memory = re.search(r"^MemTotal:\s*(\d+) kB", read("/proc/meminfo"), re.M)
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "kernel": f"{platform.system()} {re.match('[0-9.]*', platform.release())[0]}",
    }


def processors_in_use(seconds=3.0):
    """How many processors are busy right now, or None where the system does not tell."""

    def ticks():
        for line in read("/proc/stat").splitlines():
            if line.startswith("cpu "):
                values = [int(word) for word in line.split()[1:9]]
                return sum(values), values[3] + values[4]  # all; idle and waiting for a disk
        return None

    before = ticks()
    if before is None:
        return None
    time.sleep(seconds)
    after = ticks()
    total = after[0] - before[0]
    return (1 - (after[1] - before[1]) / total) * (os.cpu_count() or 1) if total else None


def busy_warning(when):
    """A list of one warning if the machine has other work to do, else of none."""
    busy = processors_in_use()
    if busy is None or busy <= BUSY:
        return []
    warning = f"other programs used {busy:.1f} processors {when}"
    note(f"warning: {warning}; the result will not be worth much")
    return [warning]


# --- the result -----------------------------------------------------------------------------------


def summary(rounds, peers):
    """Medians of every figure, and of the ratios taken within each round."""
    result = {}
    for name in ["ours", *peers]:
        keys = rounds[0][name].keys() - {"peak_memory_bytes"}
        median = {key: statistics.median(r[name][key] for r in rounds) for key in sorted(keys)}
        # The first slice's: later the peak of a process that goes on may be the inference's.
        median["peak_memory_bytes"] = rounds[0][name]["peak_memory_bytes"]
        result[name] = median
    result["ratio"] = {
        peer: {
            key: statistics.median(r["ours"][key] / r[peer][key] for r in rounds)
            for key in ["train", "infer"]
        }
        for peer in peers
    }
    return result


def table(rows):
    """Rows of text, right-aligned in columns; the first is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def gib(count):
    return "?" if count is None else f"{count / 2**30:.2f} GiB"


def report(result):
    peers = list(result["peers"])
    rounds, medians = result["rounds"], result["median"]
    parts = []
    what = result["recipe"] + (f", Crescendo in {result['precision']}" if result["precision"] else "")
    titles = {"train": f"{what}: training, batch {result['batch']}", "infer": f"{what}: inference"}
    for key, title in titles.items():
        heading = ["round", "Crescendo"]
        for peer in peers:
            heading += [TITLES[peer], f"ratio to {TITLES[peer]}"]
        rows = [heading]
        for number, r in enumerate(rounds, 1):
            row = [str(number), f"{r['ours'][key]:.1f}"]
            for peer in peers:
                row += [f"{r[peer][key]:.1f}", f"{r['ours'][key] / r[peer][key]:.2f}"]
            rows.append(row)
        row = ["median", f"{medians['ours'][key]:.1f}"]
        for peer in peers:
            row += [f"{medians[peer][key]:.1f}", f"{medians['ratio'][peer][key]:.2f}"]
        rows.append(row)
        parts.append(f"{title}, images a second\n\n{table(rows)}")
    ours = medians["ours"]
    if result["device"] == "cuda":
        floor = result["batch"] / ours["floor_seconds"]
        lines = [
            f"products {ours['product_gflops'] / 1e3:.0f} TFLOP/s, copies "
            f"{ours['copy_gb_per_second'] / 1e3:.2f} TB/s; the floors of the steps allow "
            f"{floor:.0f} images a second (medians)",
        ]
    else:
        lines = [
            f"FMA peak {ours['peak_gflops']:.0f} GFLOP/s; training at {ours['roof_ratio']:.2f} of "
            "the direct-convolution roof (medians)",
        ]
    lines += [
        f"peak memory of training: Crescendo {gib(ours['peak_memory_bytes'])}"
        + "".join(f", {TITLES[p]} {gib(medians[p]['peak_memory_bytes'])}" for p in peers),
    ]
    for peer in peers:
        told = result["peers"][peer]
        settings = ", ".join(f"{key} {value}" for key, value in told["config"].items())
        lines.append(f"{TITLES[peer]} {told['version']}: {settings}")
    m = result["machine"]
    lines.append(
        f"{m['cpu']}, {m['cores']} cores, {gib(m['memory_bytes'])}, {m['kernel']}; "
        + (result["gpu"] if result["gpu"] else f"{result['threads']} threads")
    )
    lines += [f"NOT FAIR: {reason}" for reason in result["warnings"]]
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


def save(result):
    what = f"batch{result['batch']}-" + (
        "cuda" if result["device"] == "cuda" else f"threads{result['threads']}"
    )
    if result["recipe"] != "report":
        what = f"{result['recipe']}-{what}"
    for name in ["isa", "precision"]:
        if result[name]:
            what += f"-{result[name]}"
    stem = f"{datetime.date.today().isoformat()}-{what}"
    RESULTS.mkdir(exist_ok=True)
    path, number = RESULTS / f"{stem}.json", 2
    while path.exists():  # a second run of the day does not replace the first
        path, number = RESULTS / f"{stem}-{number}.json", number + 1
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


# --- the run --------------------------------------------------------------------------------------


def measure(options):
    peers = {}
    warnings = []
    with contextlib.ExitStack() as stack:
        python = python_of_peer(options) if "pytorch" in options.peers else None
        ours = options.ours or build_ours()
        burn = build_burn(options.isa) if "burn" in options.peers else None

        warnings += busy_warning("before the start")
        trials = None
        if python:
            best, trials = best_pytorch(python, options)
            note("starting PyTorch at its best: " + ", ".join(best.values()))
            peer = start_pytorch(python, options, best)
            peers["pytorch"] = stack.enter_context(contextlib.closing(peer))
        if burn:
            note("starting Burn")
            command = [burn, "--batch", options.batch, "--threads", options.threads]
            peer = Peer("Burn", command + ["--infer-batch", INFER_BATCH])
            peers["burn"] = stack.enter_context(contextlib.closing(peer))

        rounds = []
        speeds = {name: {} for name in peers}
        for number in range(1, options.rounds + 1):
            figures = {"ours": slice_of_ours(ours, options)}
            for name, peer in peers.items():
                figures[name] = slice_of_peer(peer, speeds[name], options)
            rounds.append(figures)
            told = ", ".join(f"{n} {f['train']:.1f}/{f['infer']:.1f}" for n, f in figures.items())
            note(f"round {number} of {options.rounds}, images/s trained/inferred: {told}")
        warnings += busy_warning("after the end")  # the peers sleep, and would show here too

        result = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": version_of(["git", "describe", "--always", "--dirty", "--exclude=*"]),
            "recipe": options.recipe,
            "batch": options.batch,
            "seconds": options.seconds,
            "infer_batch": INFER_BATCH,
            "device": options.device,
            "gpu": options.gpu,
            "threads": options.threads,
            "isa": options.isa,
            "precision": options.precision,
            "machine": machine(),
            "rustc": version_of(["rustc", "--version"]),
            "warnings": warnings,
            "peers": {n: {"version": p.version, "config": p.config} for n, p in peers.items()},
            "pytorch_only": options.only,
            "pytorch_trials": trials,
            "rounds": rounds,
            "median": summary(rounds, peers),
        }
    return result


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def seconds(text):
    value = float(text)
    if not 0 < value < ANSWER_SECONDS / 2:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {ANSWER_SECONDS // 2}")
    return value


def peer_list(text):
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"no peer {name!r}; there are {', '.join(PEERS)}")
    return list(dict.fromkeys(names))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipe", choices=RECIPES, default="report", help="what to train")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to train (cpu)")
    parser.add_argument(
        "--batch", type=positive, help="images a training step (report 125, fast94 2000)"
    )
    parser.add_argument(
        "--seconds", type=seconds, help="of training in a slice (report 6, fast94 20; cuda 3)"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="slices of each program (7)")
    parser.add_argument("--threads", type=positive, default=cores(), help="one on every processor")
    parser.add_argument("--isa", choices=["avx2"], help="let nobody use wider instructions")
    parser.add_argument(
        "--precision",
        choices=["f32", "bf16"],
        help="Crescendo's (f32; with cuda bf16); PyTorch is tried in both",
    )
    parser.add_argument(
        "--peers", type=peer_list, help="pytorch,burn (both; fast94 has pytorch alone)"
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="WORDS",
        help="try PyTorch only in configurations with these words, such as eager,f32 (all)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--no-save", action="store_true", help="leave bench/results as it is")
    parser.add_argument(
        "--ours", type=Path, metavar="PROGRAM", help="measure this crescendo; build none"
    )
    parser.add_argument(
        "--python",
        metavar="PYTHON",
        help="run PyTorch with this Python, which has it, and install nothing (with cuda: the one "
        "that runs this, if its PyTorch finds a GPU)",
    )
    options = parser.parse_args()
    options.gpu = None
    defaults = RECIPES[options.recipe] | (CUDA if options.device == "cuda" else {})
    if options.device == "cuda" and options.isa:
        parser.error("--isa is for --device cpu")
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in options.peers:
        if name not in defaults["peers"]:
            what = options.recipe if options.device == "cpu" else "a GPU"
            parser.error(f"{TITLES[name]} has no program of {what}; use --peers")
    if options.ours:
        options.ours = options.ours.resolve()
    return options


def main():
    options = parse()
    if (not options.ours or "burn" in options.peers) and not shutil.which("cargo"):
        raise Failure("cargo is not installed")
    result = measure(options)
    print(json.dumps(result, indent=2) if options.json else report(result), flush=True)
    if not options.no_save:
        note(f"written to bench/results/{save(result).name}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
