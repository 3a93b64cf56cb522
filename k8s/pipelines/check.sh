#!/bin/sh
# Fail when the committed pipeline is not what its source compiles to.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"${PYTHON:-python3}" -m driftwheel pipeline compile --output "$fresh/driftwheel.yaml"
cmp "$fresh/driftwheel.yaml" k8s/pipelines/driftwheel.yaml || {
    echo "k8s/pipelines/driftwheel.yaml is out of date: run make pipeline" >&2
    exit 1
}
