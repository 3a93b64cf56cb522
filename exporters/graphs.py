"""What of a model is exported: a graph without the inputs that a dataset has no columns for."""

import torch
from torch import Tensor, nn

from driftwheel.contracts import Signature
from training.models.churn_network import ChurnNetwork
from training.models.store import Model, forward_inputs


class NumbersOnly(nn.Module):
    """A churn network for customers without categories."""

    def __init__(self, model: ChurnNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, number: Tensor) -> Tensor:
        """Probabilities float32 ``[n]`` of numbers float32 ``[n, numbers]``."""
        return self.model(number.new_zeros((number.shape[0], 0), dtype=torch.int64), number)


class CategoriesOnly(nn.Module):
    """A churn network for customers without numbers."""

    def __init__(self, model: ChurnNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, category: Tensor) -> Tensor:
        """Probabilities float32 ``[n]`` of categories int64 ``[n, categories]``."""
        return self.model(category, category.new_zeros((category.shape[0], 0), dtype=torch.float32))


def exported_graph(model: Model, signature: Signature) -> tuple[nn.Module, list[str]]:
    """The module to export, and its inputs' names in the order of its arguments."""
    wanted = {spec.graph_input for spec in signature.inputs}
    inputs = [name for name in forward_inputs(model) if name in wanted]
    if isinstance(model, ChurnNetwork) and len(inputs) == 1:
        return (NumbersOnly(model) if inputs == ["number"] else CategoriesOnly(model)).eval(), inputs
    return model.eval(), inputs
