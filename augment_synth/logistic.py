"""Logistic regression with an L1 penalty, by accelerated proximal gradient (Beck and Teboulle, 2009: FISTA)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int64
from torch import Tensor

Head = tuple[Float64[Tensor, "k d"], Float64[Tensor, " k"]]  # weights and bias
STEPS, TOLERANCE = 2000, 1e-6


def l1_logistic(
    features: Float64[Tensor, "n d"], labels: Int64[Tensor, " n"], num_classes: int, inverse_penalty: float
) -> Head:
    """Weights and bias that minimise |weights|_1 + inverse_penalty * the sum of cross-entropies.

    The penalty's scale is scikit-learn's C. The bias is not penalised. With two classes this is the binary problem:
    the difference of the two rows is its solution.
    """
    rows = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    # half the largest eigenvalue of X'X bounds the curvature of a softmax's cross-entropy (Boehning, 1992)
    step = 2 / (inverse_penalty * float(torch.linalg.matrix_norm(rows, 2)) ** 2)
    targets = F.one_hot(labels, num_classes).double()
    head = ahead = torch.zeros(num_classes, rows.shape[1], dtype=torch.float64, device=rows.device)
    momentum = 1.0
    for _ in range(STEPS):
        gradient = inverse_penalty * ((rows @ ahead.T).softmax(1) - targets).T @ rows
        moved = _shrunk(ahead - step * gradient, step)
        if float(((ahead - moved) * (moved - head)).sum()) > 0:  # it overshoots: begin anew (O'Donoghue, Candes)
            momentum = 1.0
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / faster * (moved - head)
        change, head, momentum = float((moved - head).abs().max()), moved, faster
        if change < TOLERANCE * float(head.abs().max()):
            break
    return head[:, :-1], head[:, -1]


def _shrunk(head: Float64[Tensor, "k d1"], by: float) -> Float64[Tensor, "k d1"]:
    """Soft thresholding of the weights, not of the bias in the last column."""
    shrunk = head.sign() * (head.abs() - by).clamp(min=0)
    shrunk[:, -1] = head[:, -1]
    return shrunk
