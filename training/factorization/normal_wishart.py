"""What the rows of a table have in common, drawn given the rows: formula 14 of Salakhutdinov and Mnih, 2008 (see ``gibbs``)."""

import numpy as np
import torch
from torch import Tensor

_PRIOR_ROWS = 2.0
"""How many rows at zero the means' prior weighs as much as."""


def draw_normal_wishart(rows: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A mean ``[k]`` and a precision ``[k, k]`` from what rows ``[n, k]`` leave of a vague prior: mean 0 with the weight of
    two rows, and a Wishart distribution of ``k`` degrees of freedom around the identity.
    """
    x = rows.double()
    count, width = x.shape
    average = x.mean(0)
    centred = x - average
    shrunk = count * _PRIOR_ROWS / (count + _PRIOR_ROWS)
    scatter = torch.eye(width, dtype=torch.double) + centred.T @ centred + shrunk * torch.outer(average, average)
    # Bartlett's decomposition: the precision is R R' with R = (a root of the inverse scatter) times a random triangle.
    triangle = torch.tril(torch.from_numpy(random.standard_normal((width, width))), -1)
    triangle += torch.diag(torch.from_numpy(random.chisquare(width + count - np.arange(width))).sqrt())
    root = torch.linalg.cholesky(torch.linalg.inv(scatter)) @ triangle
    spread = torch.linalg.solve_triangular(root.T, torch.from_numpy(random.standard_normal((width, 1))), upper=True)
    mean = count * average / (count + _PRIOR_ROWS) + spread[:, 0] / (count + _PRIOR_ROWS) ** 0.5
    return mean.float(), (root @ root.T).float()
