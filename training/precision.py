"""bf16 where it is worth it: matrix products, by PyTorch's automatic mixed precision."""

import torch

from training.execution import Precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass. Weights, sums, losses and the optimizer stay float32; bf16 has float32's range, so
    gradients need no scaling.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
