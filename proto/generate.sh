#!/bin/sh
# Generate serving/_proto from the sources beside this script, into the folder given (default: the tree's own).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/serving/_proto}
python=${PYTHON:-$root/.venv/bin/python}
case $python in /*) ;; *) python=$root/$python ;; esac
"$python" -m grpc_tools.protoc -I "$root/proto" --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" "$root"/proto/*.proto
# The generator writes absolute imports of sibling modules; ours live in a package.
for file in "$out"/*_pb2_grpc.py; do
    sed -i.bak 's/^import \([a-z_]*_pb2\) as/from serving._proto import \1 as/' "$file" && rm "$file.bak"
done
