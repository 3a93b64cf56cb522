"""Recording rules and alerts for Prometheus, with a runbook for each in docs/runbooks."""
