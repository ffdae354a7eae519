"""Times the updates of two or more training runs that take turns on the same cores.

    python3 bench/turns.py 'new=target/release/crescendo' 'old=old/crescendo'
    python3 bench/turns.py 'threads=mpi/crescendo' 'ranks=mpirun -n 2 mpi/crescendo --threads 1'

Each argument is a name and the command of a program, with launchers before it and options behind it; it trains the
paper's network (`--batch`, `--updates`). All runs begin one after the other and are stopped (SIGSTOP). Then each goes on
for some seconds at a time, until all have so many updates, so that a change of the machine's speed meets all alike. Shows
the mean and the median seconds of an update, and each run's speed against the first one's. Linux only; to mean anything it
must have the machine for itself.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

# Updates of a run before the first that counts.
WARM_UP = 2


class Run:
    def __init__(self, argument, folder, options):
        self.name, separator, command = argument.partition("=")
        if not separator or not command:
            sys.exit(f"{argument}: write NAME=COMMAND")
        words = shlex.split(command)
        program = next((i for i, word in enumerate(words) if os.path.basename(word).startswith("crescendo")), None)
        if program is None:
            sys.exit(f"{argument}: the command names no crescendo program")
        self.out = f"{folder}/{self.name}"
        images = options.batch * (options.updates + 2 * WARM_UP)
        train = ["train", "report", "--data", f"shapes:{images},10", "--epochs", "1", "--json", "--out", self.out,
                 "--set", "batch.policy=fixed", "--set", f"batch.size={options.batch}", "--set", "engine.tiles=64"]
        self.errors = open(f"{folder}/{self.name}.txt", "w+")
        self.updates, self.ran, self.since = [], 0.0, time.monotonic()
        command = [*words[:program + 1], *train, *words[program + 1:]]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors)
        threading.Thread(target=self.read, daemon=True).start()

    def time(self):
        """Seconds that it has run so far."""
        return self.ran + (time.monotonic() - self.since if self.since else 0.0)

    def read(self):
        for line in self.process.stdout:
            if json.loads(line).get("event") == "step":
                self.updates.append(self.time())

    def signal(self, number):
        """To the program's processes, of which the launcher is none."""
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = open(f"/proc/{process}/cmdline", "rb").read().split(b"\0")
                if self.out.encode() in words and os.path.basename(words[0]).startswith(b"crescendo"):
                    os.kill(int(process), number)
            except OSError:
                pass  # it has ended

    def stop(self):
        self.signal(signal.SIGSTOP)
        self.ran, self.since = self.time(), None

    def go_on(self, updates, seconds):
        """Runs until it has so many updates, or for so many seconds."""
        self.since = self.since or time.monotonic()
        self.signal(signal.SIGCONT)
        end = time.monotonic() + seconds
        while len(self.updates) < updates and time.monotonic() < end:
            if self.process.poll() is not None and len(self.updates) < updates:
                self.errors.seek(0)
                sys.exit(f"{self.name} has ended: {self.errors.read().strip()}")
            time.sleep(0.02)
        self.stop()

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--updates", type=int, default=16, help="updates of each run that count")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn")
    options = parser.parse_args()
    enough = WARM_UP + options.updates
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        try:
            for argument in options.runs:
                runs.append(Run(argument, folder, options))
                runs[-1].go_on(WARM_UP, 600.0)
            while any(len(run.updates) < enough for run in runs):
                for run in runs:
                    if len(run.updates) < enough:
                        run.go_on(enough, options.seconds)
        finally:
            for run in runs:
                run.kill()
    first = None
    for run in runs:
        times = run.updates[WARM_UP - 1:enough]
        each = [after - before for before, after in zip(times, times[1:])]
        figures = [statistics.mean(each), statistics.median(each)]
        first = first or figures
        mean, median = (base / figure for base, figure in zip(first, figures))
        print(f"{run.name}: mean {figures[0]:.3f} s, median {figures[1]:.3f} s an update; "
              f"{mean:.3f} and {median:.3f} times as fast as {runs[0].name}")


if __name__ == "__main__":
    main()
