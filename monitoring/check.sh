#!/bin/sh
# Fail when the committed rules and dashboards are not what their sources write.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"${PYTHON:-python3}" -m monitoring.alerts.rules "$fresh/rules.yaml"
"${PYTHON:-python3}" -m monitoring.dashboards.build "$fresh/json"
cmp "$fresh/rules.yaml" monitoring/alerts/rules.yaml || {
    echo "monitoring/alerts/rules.yaml is out of date: run make dashboards" >&2
    exit 1
}
for file in "$fresh"/json/*.json; do
    cmp "$file" "monitoring/dashboards/json/$(basename "$file")" || {
        echo "monitoring/dashboards/json/$(basename "$file") is out of date: run make dashboards" >&2
        exit 1
    }
done
