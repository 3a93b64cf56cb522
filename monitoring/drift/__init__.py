"""Drift: windows of the log against the reference that a model was shipped with."""
