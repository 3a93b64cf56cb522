#!/bin/sh
# A running server over HTTP, with nothing but curl.
#   examples/curl.sh [HOST:PORT]      TOKEN=... for a server that asks for one, SCHEME=https for one with TLS
set -eu
server=${SCHEME:-http}://${1:-localhost:8080}
call() { curl --silent --show-error --fail-with-body ${TOKEN:+--header "authorization: Bearer $TOKEN"} "$@"; echo; }

echo "# Does it take traffic? What does mf take and give?"
call --output /dev/null --write-out "%{http_code}" "$server/v2/health/ready"
call "$server/v2/models/mf"

echo "# The Open Inference Protocol: what would users 15 and 7 give item 318?"
call "$server/v2/models/mf/infer" --json '{
  "inputs": [
    {"name": "user_id", "datatype": "INT64", "shape": [2], "data": [15, 7]},
    {"name": "item_id", "datatype": "INT64", "shape": [2], "data": [318, 318]}
  ]
}'

echo "# The best three items for user 15, and how likely a customer is to leave"
answer=$(call "$server/v1/recommend" --json '{"user_id": 15, "k": 3}')
echo "$answer"
call "$server/v1/churn" --json '{"customers": [{"contract": "Month-to-month", "tenure": 2}]}'

echo "# User 15 gave the first of them 4.5"
prediction_id=$(echo "$answer" | sed 's/.*"prediction_id":"\([^"]*\)".*/\1/')
call "$server/v1/feedback" --json "{\"feedback\": [{\"prediction_id\": \"$prediction_id\", \"row\": 0, \"label\": 4.5}]}"
