#!/bin/sh
# What the Debian package brings besides the program: assets.sh PROGRAM [DIRECTORY]. The program itself writes its manual pages and completions.
set -eu

program=$1
to=${2:-$(cd "$(dirname "$0")/../.." && pwd)/target/package}

mkdir -p "$to/man"
"$program" man "$to/man"
"$program" completion bash > "$to/shoal.bash"
"$program" completion zsh > "$to/_shoal"
"$program" completion fish > "$to/shoal.fish"
