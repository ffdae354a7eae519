#!/usr/bin/env python3
"""Compiles the CUDA kernels ahead of time, so that the program needs no CUDA toolkit.

Without an option it writes kernels/compiled/: machine code for the cards that we name, PTX for
later ones, and a manifest of what was compiled from what. The compilers come from pip, in pinned
versions, and stay in target/. No GPU is needed. Needs Linux on x86-64 and Python 3.9 or newer.
"""

import argparse
import base64
import concurrent.futures
import ctypes
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
COMPILERS = TARGET / "cuda-compilers"  # about 400 MB
KERNELS = HERE / "kernels"
COMPILED = KERNELS / "compiled"
MAIN = "kernels.cu"  # the one translation unit; it includes the others
COMMAND = "python3 crates/cuda/compile.py"

# Package, version, SHA-256 of the wheel for Linux on x86-64.
NEW = (
    "nvidia-cuda-nvrtc-cu12",
    "12.9.86",
    "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
)
OLD = (
    "nvidia-cuda-nvrtc-cu12",
    "12.0.76",
    "8dd4458a7d8bf8fd2b01a34a9069856d53a9b4c0af2037b77c12b270daf9c828",
)
ASSEMBLER = (
    "nvidia-cuda-nvcc-cu12",
    "12.9.86",
    "5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0",
)

# Machine code of the newest 12.x compiler runs under any driver of CUDA 12. A driver refuses PTX
# that is newer than itself, so PTX comes from the oldest: version 8.0, for drivers since 525.
TARGETS = {"sm_80": NEW, "sm_86": NEW, "sm_89": NEW, "sm_90a": NEW, "compute_80": OLD}
PTX_VERSION = "8.0"
# Later cards, for which the report has the PTX assembled. Their driver's assembler may differ.
LATER = ["sm_100", "sm_120"]

# Functions without a mark, such as constexpr ones, belong to the device; NVRTC refuses them
# otherwise. There is no line information, which would hold paths, and no fast mathematics.
OPTIONS = ["--std=c++17", "--device-as-default-execution-space"]
VERBOSE = "--ptxas-options=-v"  # registers and spills in the log; the code stays the same

# Bytes that a kernel may spill (stores and loads together): {("kernel", "sm_86"): 16}.
# For PTX the target is, as in the table, "compute_80 on sm_120".
# The f32 kernels are there to check the others; cards of this kind are not tuned for.
ALLOWED_SPILLS = {
    ("weight_gradient_9_f32", "compute_80 on sm_120"): 64,
    # Outside of their loops.
    ("convolution_patches", "sm_90a"): 164,
    ("convolution_patches_resident", "sm_90a"): 224,
    ("input_gradient_patches_smooth", "sm_90a"): 8,
    ("input_gradient_patches_strided_smooth", "sm_90a"): 8,
}

PACKED_LIMIT = 10_000_000  # bytes of all outputs together: they are kept in the repository


class Failure(Exception):
    """Something that a person should read without a traceback."""


def note(text):
    """Progress and remarks go to standard error; the table goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# --- compilers ------------------------------------------------------------------------------------


def install(package):
    """The folder with the files of a pinned package; fetches it when it is not there yet."""
    name, version, digest = package
    folder = COMPILERS / f"{name}-{version}"
    stamp = folder / "installed.txt"  # what is installed; written last
    wanted = f"{name}=={version} --hash=sha256:{digest}\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    note(f"installing {name} {version} in {folder}, once")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(wanted)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:"]
    command += ["--target", folder, "-r", requirements]
    pip = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if pip.returncode != 0:
        said = pip.stdout.decode(errors="replace").strip()
        raise Failure(
            f"cannot install {name} {version}; this needs pip (does python3 -m pip --version work?)"
            f" and a connection to its package index. pip said:\n{said}"
        )
    stamp.write_text(wanted)
    return folder


def compile_in_child():
    """Compiles what standard input says with NVRTC; the answer goes to standard output, as JSON.

    A process of its own, because NVRTC crashes on some errors instead of reporting them.
    """
    job = json.load(sys.stdin)
    nvrtc = ctypes.CDLL(job["library"])
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    program = ctypes.c_void_p()

    def call(name, *arguments):
        code = getattr(nvrtc, name)(*arguments)
        return nvrtc.nvrtcGetErrorString(code).decode() if code else ""

    def fetch(what):
        size = ctypes.c_size_t()
        error = call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        error = error or call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw[: size.value], error

    def strings(texts):
        return (ctypes.c_char_p * len(texts))(*[text.encode() for text in texts])

    headers = {name: text for name, text in job["sources"].items() if name != MAIN}
    error = call(
        "nvrtcCreateProgram",
        ctypes.byref(program),
        ctypes.c_char_p(job["sources"][MAIN].encode()),
        ctypes.c_char_p(MAIN.encode()),
        len(headers),
        strings(list(headers.values())),
        strings(list(headers)),
    )
    log, image = b"", b""
    if not error:
        options = job["options"]
        error = call("nvrtcCompileProgram", program, len(options), strings(options))
        log = fetch("ProgramLog")[0].rstrip(b"\0")
    if not error:
        image, error = fetch(job["output"])
    answer = {"error": error, "log": log.decode(errors="replace")}
    answer["image"] = base64.b64encode(image).decode()
    json.dump(answer, sys.stdout)


def is_ptx(target):
    return target.startswith("compute_")


def options_of(target):
    options = [f"--gpu-architecture={target}"] + OPTIONS
    return options if is_ptx(target) else options + [VERBOSE]


def compile_target(target, sources):
    """The compiled code for `target` and the compiler's log."""
    start = time.monotonic()
    job = {
        "library": str(install(TARGETS[target]) / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
        "sources": {name: data.decode() for name, data in sources.items()},
        "options": options_of(target),
        "output": "PTX" if is_ptx(target) else "CUBIN",
    }
    # NVRTC also looks for headers in the current folder: this one has none.
    child = subprocess.run(
        [sys.executable, Path(__file__).resolve(), "--child"],
        input=json.dumps(job).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=COMPILERS,
    )
    if child.returncode != 0:
        said = child.stderr.decode(errors="replace").strip()
        raise Failure(
            f"{target}: the compiler ended with code {child.returncode} and no message of its own "
            f"(negative: it crashed, often on an instruction that the target lacks)\n{said}"
        )
    answer = json.loads(child.stdout)
    if answer["error"]:
        raise Failure(f"{target}: {answer['error']}\n{answer['log'].strip()}")
    image = base64.b64decode(answer["image"])
    if is_ptx(target):
        version = re.search(rb"^\.version (\S+)", image, re.MULTILINE)
        if not version or version.group(1).decode() != PTX_VERSION:
            raise Failure(f"{target}: the PTX is not of version {PTX_VERSION}")
    for place in {str(ROOT), str(TARGET)}:
        if place.encode() in image:
            raise Failure(f"{target}: the compiled code holds the path {place}")
    note(f"{target}: {len(image)} bytes in {time.monotonic() - start:.1f} s")
    return image, answer["log"]


def assemble(ptx, card):
    """What the assembler says of `ptx` for `card`."""
    ptxas = install(ASSEMBLER) / "nvidia/cuda_nvcc/bin/ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernels.ptx"
        source.write_bytes(ptx.rstrip(b"\0"))
        command = [ptxas, "-v", f"-arch={card}", "-o", source.with_suffix(".cubin"), source]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode(errors="replace").replace(folder, "")
    if done.returncode != 0:
        raise Failure(f"ptxas refuses the PTX for {card}:\n{said.strip()}")
    return said


def read_sources():
    """The kernels' files by name, sorted, so that nothing depends on the order of a folder."""
    sources = {path.name: path.read_bytes() for path in sorted(KERNELS.glob("*.cu*"))}
    if MAIN not in sources:
        raise Failure(f"there is no {KERNELS / MAIN}")
    for name, data in sources.items():
        try:
            data.decode()
        except UnicodeDecodeError:
            raise Failure(f"{name} is not UTF-8 text") from None
    return sources


def compile_all(sources):
    """{target: compiled code} and {target or "PTX on card": log}."""
    for package in {**dict.fromkeys(TARGETS.values()), ASSEMBLER: None}:
        install(package)
    workers = min(len(os.sched_getaffinity(0)), len(TARGETS))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        jobs = {target: pool.submit(compile_target, target, sources) for target in TARGETS}
        results = {target: job.result() for target, job in jobs.items()}
        images = {target: image for target, (image, _) in results.items()}
        logs = {target: log for target, (_, log) in results.items()}
        for target in filter(is_ptx, TARGETS):
            later = {card: pool.submit(assemble, images[target], card) for card in LATER}
            logs.update({f"{target} on {card}": job.result() for card, job in later.items()})
    return images, logs


# --- registers and spills -------------------------------------------------------------------------

KERNEL_LINE = re.compile(r"Compiling entry function '(.+)' for ")
FUNCTION_LINE = re.compile(r"Function properties for (\S+)")
SPILL_LINE = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill l")
USED_LINE = re.compile(r"Used (\d+) registers")
SHARED_LINE = re.compile(r"(\d+) bytes smem")
DULL_LINE = re.compile(r"bytes gmem|Compile time = ")


def parse_log(target, log):
    """The rows of the table that a log has, and all of its other lines."""
    rows, remarks = [], []
    row = {}
    kernel = None
    for line in log.splitlines():
        if match := KERNEL_LINE.search(line):
            kernel = match.group(1)
        elif match := FUNCTION_LINE.search(line):
            # A function that is no kernel was not inlined, and has no registers of its own.
            row = {"name": match.group(1), "target": target, "registers": None, "shared": None}
            rows.append(row)
        elif match := SPILL_LINE.search(line):
            row["stack"] = int(match.group(1))
            row["spills"] = int(match.group(2)) + int(match.group(3))
        elif match := USED_LINE.search(line):
            shared = SHARED_LINE.search(line)
            used = next(row for row in reversed(rows) if row["name"] == kernel)
            used["registers"] = int(match.group(1))
            used["shared"] = int(shared.group(1)) if shared else 0
        elif line.strip() and not DULL_LINE.search(line):
            remarks.append(line)
    return rows, "\n".join(remarks)


def table_of(logs):
    """All rows, by kernel and then by target. Remarks are printed, each text once."""
    rows, seen = [], set()
    for target, log in logs.items():
        found, remarks = parse_log(target, log)
        if not found and target not in filter(is_ptx, TARGETS):  # making PTX uses no registers
            raise Failure(f"{target}: the log names no kernel:\n{log.strip()}")
        rows += found
        if remarks and remarks not in seen:
            note(f"{target}: the compiler remarks:\n{remarks}")
            seen.add(remarks)
    order = list(logs)
    return sorted(rows, key=lambda row: (row["name"], order.index(row["target"])))


def print_table(rows):
    """Shared memory is what a kernel declares; what a launch asks for comes on top."""
    header = ["kernel", "target", "registers", "spill bytes", "stack bytes", "shared bytes"]
    keys = ["name", "target", "registers", "spills", "stack", "shared"]
    lines = [header]
    for row in rows:
        lines.append(["-" if row[key] is None else str(row[key]) for key in keys])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2])]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:])]
        print("  ".join(left + right))
    sys.stdout.flush()


def spill_faults(rows):
    faults = []
    for row in rows:
        limit = ALLOWED_SPILLS.get((row["name"], row["target"]), 0)
        if row["spills"] > limit:
            faults.append(
                f"{row['name']} spills {row['spills']} bytes on {row['target']}; "
                f"ALLOWED_SPILLS in compile.py allows {limit}"
            )
    return faults


# --- outputs --------------------------------------------------------------------------------------


def file_of(target):
    return f"{target}.ptx.gz" if is_ptx(target) else f"{target}.cubin.gz"


def pack(image):
    """gzip without a time or a name, so that the same code gives the same file."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, buffer, mtime=0) as file:
        file.write(image)
    return buffer.getvalue()


def unpack(path):
    """The code in a stored file, or None where there is none that can be read."""
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return None


def manifest_of(sources, images):
    """What was compiled from what. The sums of the outputs are those of the unpacked code: another
    zlib may pack the same code differently."""
    outputs = {}
    for target, image in images.items():
        name, version, _ = TARGETS[target]
        outputs[file_of(target)] = {
            "compiler": f"{name} {version}",
            "options": options_of(target),
            "bytes": len(image),
            "sha256": sha256(image),
        }
    return {"sources": {name: sha256(data) for name, data in sources.items()}, "outputs": outputs}


def write(sources, images):
    packed = {file_of(target): pack(image) for target, image in images.items()}
    total = sum(map(len, packed.values()))
    if total > PACKED_LIMIT:
        raise Failure(f"the packed code has {total} bytes, more than {PACKED_LIMIT}")
    COMPILED.mkdir(exist_ok=True)
    for path in COMPILED.glob("*.gz"):  # of targets that are no more
        if path.name not in packed:
            path.unlink()
    for target, image in images.items():
        path = COMPILED / file_of(target)
        if unpack(path) != image:  # a file that is right stays as it is, whoever packed it
            path.write_bytes(packed[path.name])
    text = json.dumps(manifest_of(sources, images), indent=2) + "\n"
    (COMPILED / "manifest.json").write_text(text)
    sizes = ", ".join(f"{name} {len(data)}" for name, data in packed.items())
    note(f"written to {COMPILED}: {sizes}; {total} bytes together")


def stored_faults(sources, images):
    """How what is stored differs from what was just compiled, in sentences."""
    try:
        stored = json.loads((COMPILED / "manifest.json").read_text())
        old_sources, old_outputs = dict(stored["sources"]), dict(stored["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return [f"there is no readable {COMPILED / 'manifest.json'}"]
    faults = []
    new = manifest_of(sources, images)
    for name in sorted({*old_sources, *new["sources"]}):
        if old_sources.get(name) != new["sources"].get(name):
            faults.append(f"{name} is not what the stored code was compiled from")
    for target, image in images.items():
        name = file_of(target)
        if old_outputs.get(name) != new["outputs"][name]:
            faults.append(f"the manifest's entry of {name} differs from what is compiled now")
        if unpack(COMPILED / name) != image:
            faults.append(f"{name} is not what the kernels compile to now")
    for name in sorted({*old_outputs, *(path.name for path in COMPILED.glob("*.gz"))}):
        if name not in new["outputs"]:
            faults.append(f"{name} belongs to no target")
    total = sum(path.stat().st_size for path in COMPILED.glob("*.gz"))
    if total > PACKED_LIMIT:
        faults.append(f"the stored code has {total} bytes, more than {PACKED_LIMIT}")
    return faults


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--check",
        action="store_true",
        help="write nothing; fail if what is stored differs, or if a kernel spills registers",
    )
    group.add_argument(
        "--report", action="store_true", help="write nothing; print registers and spills"
    )
    group.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = parse()
    if options.child:
        return compile_in_child()
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Failure("the compilers are pinned for Linux on x86-64; compile there")
    sources = read_sources()
    images, logs = compile_all(sources)
    rows = table_of(logs)
    print_table(rows)
    faults = [] if options.report else spill_faults(rows)
    if options.check:
        stale = stored_faults(sources, images)
        if stale:
            stale.append(f"run {COMMAND} and commit what it writes")
        if faults or stale:
            raise Failure("\n".join(faults + stale))
        note("what is stored is what the kernels compile to")
    elif not options.report:
        write(sources, images)
        for fault in faults:
            note(f"warning: {fault}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
