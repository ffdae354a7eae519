#!/usr/bin/env bash
# Builds this folder's program from the packages that `cargo publish` would upload, runs it, and has the program
# `crescendo` use what it leaves. With the dependencies'
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
    # The program needs no crates of tests.
    if ! grep -q '^publish = false' "$folder/Cargo.toml" && [ "$name" != crescendo-reference ]; then
        patches+=(--config "patch.crates-io.$name.path='$folder'")
    fi
done

# Files of packages have dates of long ago, which cargo would take for those of what it built before.
find "$work/crates" -type f -exec touch {} +

# A copy, so that nothing is written into the sources. With the workspace's versions and profile it takes what it depends
# on from the workspace's build.
cp -r tests/outside "$work/program"
cp Cargo.lock "$work/program"
sed -n '/^\[profile/,$p' Cargo.toml >> "$work/program/Cargo.toml"
cargo run --release --manifest-path "$work/program/Cargo.toml" --target-dir "$target" "${patches[@]}" -- "$work"

# The checkpoint describes its network: the program needs nothing else.
cargo run --release --quiet -- predict "$work/run" "$work/images.npy" --out "$work/classes.csv" > /dev/null
tail -n +2 "$work/classes.csv" | cut -d , -f 2 | diff - "$work/expected.txt"
