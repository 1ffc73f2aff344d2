#!/bin/sh
# An image from a program that has been built already, without pulling anything: from-binary.sh PROGRAM TAG [FORMAT:PLACE]. Needs buildah and
# binutils, and root or subordinate ids.
# With a third argument the image is also written there, as `oci-archive:shoal.tar`. VERSION, REVISION and SOURCE_DATE_EPOCH are taken from the environment or the
# checkout.
set -eu

program=$1
tag=$2
here=$(cd "$(dirname "$0")" && pwd)
version=${VERSION:-$("$program" version --json | sed -n 's/.*"version": "\([^"]*\)".*/\1/p')}
revision=${REVISION:-$(git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)}
: "${SOURCE_DATE_EPOCH:=$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH
created=$(date --utc --date=@"$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

work=$(mktemp -d)
container=$(buildah from scratch)
trap 'rm -rf "$work"; buildah rm "$container" >/dev/null' EXIT

# Debug information is two thirds of a program, and of no use where no debugger is.
strip -o "$work/shoal" "$program"
"$here/root.sh" "$work/shoal" "$work/root" "$work/own"
buildah copy --quiet "$container" "$work/root" / >/dev/null
for directory in /var/lib/shoal /run/shoal; do
  buildah copy --quiet --chown 65532:65532 --chmod 0700 "$container" "$work/own$directory" "$directory" >/dev/null
done
buildah config --user 65532:65532 --entrypoint '["/usr/bin/shoal"]' --cmd agent \
  --port 5000 --port 5001 --port 5002 --port 5080 \
  --label org.opencontainers.image.title=shoal \
  --label org.opencontainers.image.description='A registry mirror on every node, fed by its neighbours' \
  --label org.opencontainers.image.source=https://github.com/shoal-oci/shoal \
  --label org.opencontainers.image.licenses=Apache-2.0 \
  --label org.opencontainers.image.version="$version" \
  --label org.opencontainers.image.revision="$revision" \
  --label org.opencontainers.image.created="$created" \
  "$container"
buildah commit --quiet --format oci --timestamp "$SOURCE_DATE_EPOCH" "$container" "$tag"
if [ $# -gt 2 ]; then buildah push --quiet "$tag" "$3"; fi
