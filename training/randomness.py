"""The state of the random numbers that training draws on a device: those of dropout."""

import torch
from torch import Tensor


def random_state(device: torch.device) -> Tensor:
    """The generator's state, bytes on the CPU."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def restore_random_state(state: Tensor, device: torch.device) -> None:
    """Go on where ``random_state`` was taken; with a device of another kind, where this one's own numbers stand."""
    if len(state) != len(random_state(device)):
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
