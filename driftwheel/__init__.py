"""Driftwheel: train, serve, watch and retrain recommenders and churn models. The floor and the command line."""

import os

# From 1.32 on, onnxruntime reports its use to its maker as soon as it is imported, and keeps an identifier of the machine in
# the home. A server must do neither. Whoever wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Threads of torch that wait for each other would spin, which on a machine that has other work makes a small operation on two
# threads forty times slower. Asleep they lose nothing that can be measured. It must be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
