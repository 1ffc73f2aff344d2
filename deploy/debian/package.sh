#!/bin/sh
# The Debian package of a program that has been built already: package.sh PROGRAM OUTPUT. Needs cargo-deb (`cargo install cargo-deb`), binutils and dpkg-dev.
set -eu

program=$(realpath "$1")
output=$(realpath -m "$2")
here=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/assets.sh" "$program" "$work/release/package"
# Debug information is two thirds of a program.
strip -o "$work/release/shoal" "$program"
CARGO_TARGET_DIR=$work cargo deb --manifest-path "$here/../../crates/agent/Cargo.toml" --no-build --no-strip --output "$output"
