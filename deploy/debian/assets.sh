#!/bin/sh
# What the Debian package brings besides the program, and what lies beside it in an archive: assets.sh PROGRAM DIRECTORY. The program itself writes its manual
# pages and completions. The same program and SOURCE_DATE_EPOCH give the same files.
set -eu

program=$1
to=$2

mkdir -p "$to/man"
"$program" man "$to/man"
gzip --best --no-name --force "$to"/man/*.1
"$program" completion bash > "$to/shoal.bash"
"$program" completion zsh > "$to/_shoal"
"$program" completion fish > "$to/shoal.fish"

version=$("$program" version --json | sed -n 's/.*"version": "\([^"]*\)".*/\1/p')
date=$(date --utc --rfc-email --date="@${SOURCE_DATE_EPOCH:-0}")
gzip --best --no-name > "$to/changelog.Debian.gz" <<END
shoal ($version-1) stable; urgency=medium

  * What is new in it is in /usr/share/doc/shoal/CHANGELOG.md.

 -- The shoal authors <shoal-oci@users.noreply.github.com>  $date
END
