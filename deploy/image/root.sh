#!/bin/sh
# Lays out the root of the image: root.sh PROGRAM ROOT OWN. ROOT gets the program, the libraries that it is linked with, the loader, and the CA certificates of this
# machine; OWN the directories that the agent writes to where nothing is mounted, which have to be given to its user.
set -eu

program=$1
root=$2
own=$3

mkdir -p "$root"
install -D -m 0755 "$program" "$root/usr/bin/shoal"

# `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and the loader without an arrow.
ldd "$program" | sed -n 's|^[^/]*\(/[^ ]*\) (0x.*|\1|p' | while read -r library; do
  install -D -m 0755 "$library" "$root$library"
done
# glibc looks names up with libraries that no program is linked with.
libc=$(ldd "$program" | sed -n 's|.*=> \(/[^ ]*\)/libc\.so\.6 .*|\1|p')
for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
  if [ -e "$libc/$library" ]; then install -D -m 0755 "$libc/$library" "$root$libc/$library"; fi
done

mkdir -p "$root/etc/ssl/certs"
install -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
# Files first: without this, glibc asks DNS for what /etc/hosts has.
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"

mkdir -p "$root/etc/shoal" "$root/var/lib" "$root/run" "$own/var/lib/shoal" "$own/run/shoal"

# The same files give the same layer, whenever they are laid out.
find "$root" "$own" -exec touch --no-dereference --date=@"${SOURCE_DATE_EPOCH:-0}" {} +
