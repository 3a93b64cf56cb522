"""Finding good knobs: an Optuna study whose trials are training jobs."""
