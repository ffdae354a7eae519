"""Times small and large training on a quiet machine, beside busy loops, and on one core.

    python3 bench/busy.py
    python3 bench/busy.py --program old/crescendo --program target/release/crescendo
    python3 bench/busy.py --paper 10

Each program (`--program`, by default target/release/crescendo) trains a small network on one thread and on two:
250 updates, of which the median time of some runs is shown. Programs and settings take turns, because machines
drift. `--paper N` compares the speed of the paper's network as well, on a quiet machine, in N pairs. Linux only; to
mean anything it must have the machine for itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SMALL = [
    "train", "quick", "--data", "shapes:2000,100", "--epochs", "1", "--quiet",
    "--set", "network.widths=[4,8,8]", "--set", "batch.policy=fixed", "--set", "batch.size=8",
    "--set", "train.final_evaluation=false", "--set", "train.save_every_minutes=0",
]
PLACES = ["quiet", "two busy loops", "one core (taskset)"]


def small(program, threads, place):
    """Seconds of a small run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, *SMALL, "--threads", str(threads), "--out", f"{folder}/run"]
        if place == PLACES[2]:
            command = ["taskset", "-c", "0", *command]
        busy = []
        if place == PLACES[1]:
            loop = [sys.executable, "-c", "while True: pass"]
            busy = [subprocess.Popen(loop) for _ in range(2)]
            time.sleep(0.2)
        try:
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - begin
        finally:
            for loop in busy:
                loop.kill()
                loop.wait()


def paper(program, seconds):
    """Images a second of the paper's network."""
    command = [program, "bench", "report", "--seconds", str(seconds), "--json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)["training"]["images_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", action="append", metavar="FILE")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--paper", type=int, default=0, metavar="PAIRS")
    parser.add_argument("--seconds", type=float, default=6, metavar="S")
    arguments = parser.parse_args()
    programs = [os.path.abspath(p) for p in arguments.program or ["target/release/crescendo"]]
    load = os.getloadavg()[0]
    if load > 0.3:
        print(f"NOT FAIR: other programs run (load {load:.1f})")

    print("| | " + " | ".join(f"{os.path.relpath(p)}, {t} thread{'s' * (t > 1)}" for p in programs for t in (1, 2)) + " |")
    print("|---|" + "---|" * 2 * len(programs))
    for place in PLACES:
        settings = [(program, threads) for program in programs for threads in (1, 2)]
        seconds = {setting: [] for setting in settings}
        for _ in range(arguments.runs):
            for program, threads in settings:
                seconds[program, threads].append(small(program, threads, place))
        cells = (f"{statistics.median(seconds[s]):.2f} s" for s in settings)
        print(f"| {place} | " + " | ".join(cells) + " |", flush=True)

    if arguments.paper:
        speeds = [[paper(p, arguments.seconds) for p in programs] for _ in range(arguments.paper)]
        for index, program in enumerate(programs):
            own = [round_[index] for round_ in speeds]
            ratios = [round_[index] / round_[0] for round_ in speeds]
            print(f"{os.path.relpath(program)}: {statistics.median(own):.1f} images/s, "
                  f"{statistics.median(ratios):.4f} of the first ({min(ratios):.4f} to {max(ratios):.4f})")


if __name__ == "__main__":
    main()
