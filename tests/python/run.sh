#!/usr/bin/env bash
# Builds the wheel, installs it in a fresh environment, and tests it with pytest, to which arguments are passed. Without
# arguments, the source distribution is built too.
set -euo pipefail
cd "$(dirname "$0")/../.."

not_run() {
    echo "tests/python did not run: $1" >&2
    exit 0
}

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
    not_run "there is no Python 3.9 or later"
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
work=$target/python
rm -rf "$work/venv" "$work/wheels"
"$python" -m venv "$work/venv" || not_run "Python's venv is missing"
bin=$work/venv/bin
"$bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9.4,<2' -r tests/python/requirements.txt ||
    not_run "packages could not be installed"

export CARGO_TARGET_DIR=$target
"$bin/maturin" build --release --locked --quiet --interpreter "$bin/python" --out "$work/wheels"
"$bin/pip" install --quiet --disable-pip-version-check --no-deps "$work"/wheels/*.whl
"$bin/python" -m pytest -rs "$@"
if [ $# -gt 0 ]; then
    exit
fi

# What `pip install` builds where there is no wheel.
rm -rf "$work/source"
mkdir -p "$work/source"
"$bin/maturin" sdist --manifest-path crates/python/Cargo.toml --out "$work/source"
tar -xzf "$work"/source/*.tar.gz -C "$work/source" --strip-components 1
# Its files have dates of long ago, which cargo would take for those of what it built before.
find "$work/source" -type f -exec touch {} +
(cd "$work/source" && "$bin/maturin" build --release --locked --quiet --interpreter "$bin/python" --out "$work/source/wheels")
files() {
    "$bin/python" -m zipfile --list "$1" | awk '{ print $1 }' | sort
}
diff <(files "$work"/wheels/*.whl) <(files "$work"/source/wheels/*.whl)
