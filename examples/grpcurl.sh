#!/bin/sh
# A running server over gRPC, with grpcurl (https://github.com/fullstorydev/grpcurl). It learns the methods by reflection.
#   examples/grpcurl.sh [HOST:PORT]      TOKEN=... for a server that asks for one, TLS=1 for one with TLS
set -eu
server=${1:-localhost:8080}
oip=inference.GRPCInferenceService
plaintext=-plaintext
[ -z "${TLS:-}" ] || plaintext=
call() { grpcurl $plaintext ${TOKEN:+-H "authorization: Bearer $TOKEN"} "$@"; }

echo "# Does it serve? What does it speak?"
call "$server" grpc.health.v1.Health/Check
call "$server" list
call "$server" describe $oip.ModelInfer

echo "# What does mf take and give?"
call -d '{"name": "mf"}' "$server" $oip/ModelMetadata

echo "# What would users 15 and 7 give item 318?"
call -max-time 1 -d '{
  "model_name": "mf",
  "inputs": [
    {"name": "user_id", "datatype": "INT64", "shape": [2], "contents": {"int64_contents": [15, 7]}},
    {"name": "item_id", "datatype": "INT64", "shape": [2], "contents": {"int64_contents": [318, 318]}}
  ]
}' "$server" $oip/ModelInfer
