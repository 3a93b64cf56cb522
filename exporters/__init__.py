"""From a trained model to a bundle: ONNX, TorchScript, parity, golden requests."""
