#!/bin/sh
# Prints one sha256 over the names and bytes of all files below each folder, then the folder's name.
# With --check FILE first, fails unless every printed line stands in FILE.
set -eu
listing=
if [ "${1:-}" = --check ]; then
    listing=$2
    shift 2
fi
status=0
for folder in "$@"; do
    [ -d "$folder" ] || { echo "$folder is not a folder" >&2; exit 2; }
    sums=$(cd "$folder" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum)
    line="$(printf '%s\n' "$sums" | sha256sum | cut -d' ' -f1) $(basename "$folder")"
    echo "$line"
    if [ -n "$listing" ] && ! grep -qxF "$line" "$listing"; then
        echo "$folder: this digest does not stand in $listing" >&2
        status=1
    fi
done
exit $status
