"""Grafana dashboards as code; the JSON that Grafana reads lies in ``json``."""
