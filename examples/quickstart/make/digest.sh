#!/bin/sh
# One sha256 for every byte and name below each folder given.
set -eu
for folder in "$@"; do
    (cd "$folder" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1) | tr '\n' ' '
    echo "$folder"
done
