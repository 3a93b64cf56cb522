"""The server: one core, thin transports, and a front door."""

import driftwheel as driftwheel  # before onnxruntime, which must not report to its maker
