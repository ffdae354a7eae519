"""Compares what `plan --ranks 2` predicts with what two ranks do over a slow network.

    python3 bench/namespaces.py target/release/crescendo --rates 1Gbit,10Gbit --batches 16,32,64,125

The program is built with the feature `mpi`. The network is a pair of virtual interfaces between two network namespaces of
this machine, each of which sends through `tc`'s token bucket filter. Every rank has one thread. For each rate and batch
size, `plan --measure` runs on both cores at once, two ranks train, and the plan is made again, since a machine's speed
changes. Of two plans at once the slower counts, since ranks wait for each other; the mean of those before and after is
shown beside the measured images a second. Linux only, as root, with Open MPI; to mean anything it must
have the machine, of two cores, for itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

NETWORK = "10.213.7"
SPACES = ["crescendo-0", "crescendo-1"]
# Updates before the first that counts.
WARM_UP = 3


def run(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


def network():
    """Makes the namespaces and the interfaces between them."""
    for space in SPACES:
        run("ip", "netns", "add", space)
    run("ip", "link", "add", "rank0", "netns", SPACES[0], "type", "veth", "peer", "name", "rank1", "netns", SPACES[1])
    for rank, space in enumerate(SPACES):
        run("ip", "-n", space, "address", "add", f"{NETWORK}.{rank + 1}/24", "dev", f"rank{rank}")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "link", "set", f"rank{rank}", "up")


def limit(rate):
    for rank, space in enumerate(SPACES):
        run("ip", "netns", "exec", space, "tc", "qdisc", "replace", "dev", f"rank{rank}", "root", "tbf",
            "rate", rate, "burst", "1mb", "latency", "50ms")


def mpirun(folder):
    """A launcher of two ranks, one in each namespace. Each believes that it is on a machine of its own."""
    agent = f"{folder}/agent"
    with open(agent, "w") as file:
        file.write(f"#!/bin/sh\nshift\nexec ip netns exec {SPACES[1]} unshare -u sh -c \"hostname rank1; $*\"\n")
    os.chmod(agent, 0o755)
    addresses = f"{NETWORK}.0/24"
    command = (f"mpirun --allow-run-as-root -n 2 -H {NETWORK}.1:1,{NETWORK}.2:1 --bind-to none "
               f"--mca plm_rsh_agent {agent} --mca btl tcp,self --mca btl_tcp_if_include {addresses} "
               f"--mca oob_tcp_if_include {addresses}")
    return ["ip", "netns", "exec", SPACES[0], "unshare", "-u", "sh", "-c", f'hostname rank0; exec {command} "$@"', "sh"]


def recipe(batch):
    return ["report", "--set", "batch.policy=fixed", "--set", f"batch.size={batch}", "--set", "engine.threads=1",
            "--set", "engine.tiles=64"]


def predicted(program, batch, rate):
    """Images a second, by the slower of two plans that are made at once."""
    command = [program, "plan", *recipe(batch), "--ranks", "2", "--network", rate, "--latency", "50us",
               "--measure", "--json"]
    plans = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in SPACES]
    return min(json.loads(plan.communicate()[0])["ranks"][0]["images_per_second"] for plan in plans)


def measured(launcher, program, batch, updates, folder):
    """Images a second of two ranks."""
    images = batch * (updates + WARM_UP)
    command = [*launcher, program, "train", *recipe(batch), "--data", f"shapes:{images},10", "--epochs", "1", "--json",
               "--set", "train.final_evaluation=false", "--out", f"{folder}/run"]
    times = []
    with open(f"{folder}/errors", "w+") as errors, \
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        for line in process.stdout:
            if json.loads(line).get("event") == "step":
                times.append(time.monotonic())
        process.wait()
        errors.seek(0)
        if process.returncode:
            raise SystemExit(errors.read())
    subprocess.run(["rm", "-r", f"{folder}/run"], check=True)
    return batch * (updates - 1) / (times[-1] - times[-updates])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rates", default="1Gbit,10Gbit")
    parser.add_argument("--batches", default="16,32,64,125")
    parser.add_argument("--seconds", type=float, default=40, help="of training for each row, about")
    options = parser.parse_args()
    program = os.path.abspath(options.program)
    with tempfile.TemporaryDirectory() as folder:
        try:
            network()
            launcher = mpirun(folder)
            print("| network | batch size | predicted images/s | measured images/s | measured of predicted |")
            print("|---|---|---|---|---|")
            for rate in options.rates.split(","):
                limit(rate)
                for batch in map(int, options.batches.split(",")):
                    before = predicted(program, batch, rate)
                    updates = max(4, round(options.seconds * before / batch))
                    speed = measured(launcher, program, batch, updates, folder)
                    plan = statistics.mean([before, predicted(program, batch, rate)])
                    print(f"| {rate} | {batch} | {plan:.1f} | {speed:.1f} | {speed / plan:.2f} |", flush=True)
        finally:
            for space in SPACES:
                subprocess.run(["ip", "netns", "delete", space], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
