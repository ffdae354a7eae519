#!/usr/bin/env bash
# Builds the program with MPICH instead of Open MPI, in a folder of its own, and tests runs over several ranks. It installs
# what it needs, on Debian.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! mpicc.mpich -v >/dev/null 2>&1 || ! ls /usr/lib/llvm-*/lib/libclang* >/dev/null 2>&1; then
    apt-get update -q && apt-get install -qy libmpich-dev mpich libclang-dev
fi
export MPICC=mpicc.mpich CRESCENDO_MPIRUN=mpiexec.mpich
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# One test at a time: ranks of MPICH that wait keep their core, so with fewer cores than ranks a job takes minutes.
cargo test --release --features mpi --test program --target-dir "$target/mpich" -- ranks:: --include-ignored \
    --test-threads 1
