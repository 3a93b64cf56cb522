"""Driftwheel: train, serve, watch and retrain recommenders and churn models. The floor and the command line."""

import os

# From 1.32 on, onnxruntime reports its use to its maker as soon as it is imported, and keeps an identifier of the machine in
# the home. A server must do neither. Whoever wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
