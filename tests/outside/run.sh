#!/usr/bin/env bash
# Builds this folder's program from the packages that `cargo publish` would upload, and runs it. With the dependencies'
# sources there, as after a build of the workspace, CARGO_NET_OFFLINE=true makes it do without a network.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
work=$target/outside
rm -rf "$work"
mkdir -p "$work/crates"
# Uncommitted changes are packaged too, so that they can be tried.
cargo package --workspace --no-verify --allow-dirty --quiet --target-dir "$work"

patches=()
for file in "$work"/package/*.crate; do
    tar -xzf "$file" -C "$work/crates"
    folder=$work/crates/$(basename "$file" .crate)
    name=$(awk -F '"' '/^name = / { print $2; exit }' "$folder/Cargo.toml")
    # The crates of tests, which no other package may need, are not there.
    grep -q '^publish = false' "$folder/Cargo.toml" && continue
    patches+=(--config "patch.crates-io.$name.path='$folder'")
done

# A copy, with the workspace's versions of all dependencies: building it writes nothing into the sources.
cp -r tests/outside "$work/program"
cp Cargo.lock "$work/program"
cargo run --release --manifest-path "$work/program/Cargo.toml" --target-dir "$target" "${patches[@]}" -- "$work"
