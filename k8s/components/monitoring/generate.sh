#!/bin/sh
# Write rules.yaml beside this file: the alerts of monitoring/alerts, as the Prometheus operator takes them.
set -eu
cd "$(dirname "$0")"
temporary=.rules.yaml.$$
trap 'rm -f "$temporary"' EXIT
{
  cat <<'HEAD'
# Written by k8s/components/monitoring/generate.sh from monitoring/alerts/rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: driftwheel
  namespace: driftwheel
spec:
HEAD
  sed -e '/^#/d' -e 's/^/  /' ../../../monitoring/alerts/rules.yaml
} >"$temporary"
mv "$temporary" rules.yaml
