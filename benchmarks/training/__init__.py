"""Models of ours beside those of the best open libraries, on the same splits: ``python -m benchmarks.training``."""
