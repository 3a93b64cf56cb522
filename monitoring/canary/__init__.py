"""Canary releases: evidence out of the log, always-valid tests on it, a verdict."""
