#!/bin/sh
# Fail when serving/_proto is not what proto/ generates.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$root/proto/generate.sh" "$fresh"
for file in "$fresh"/*; do
    cmp -s "$file" "$root/serving/_proto/$(basename "$file")" || {
        echo "serving/_proto/$(basename "$file") is out of date: run make proto" >&2
        exit 1
    }
done
