"""Data, features, models, the distributed trainer, tracking and the registry."""
