#!/bin/sh
# Generate serving/_proto from the sources beside this script, into the folder given (default: the tree's own).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/serving/_proto}
python=${PYTHON:-$root/.venv/bin/python}
case $python in /*) ;; *) python=$root/$python ;; esac
"$python" -m grpc_tools.protoc -I "$root/proto" --python_out="$out" --pyi_out="$out" "$root"/proto/*.proto
# Stubs for those that our own clients and tests call.
"$python" -m grpc_tools.protoc -I "$root/proto" --grpc_python_out="$out" \
    "$root/proto/driftwheel.proto" "$root/proto/open_inference.proto" "$root/proto/torchserve_inference.proto"
# The generator writes absolute imports of sibling modules, and puts all messages into the process's one pool, where the
# modules of other clients of the same protocols would clash with ours; ours live in a package, and in a pool of their own.
for file in "$out"/*_pb2*.py; do
    sed -i.bak -e 's/^import \([a-z_]*_pb2\) as/from serving._proto import \1 as/' \
        -e 's/^from google.protobuf import descriptor_pool as/from serving import proto_pool as/' "$file" && rm "$file.bak"
done
