"""How well a representation tells the classes, without any training: by the nearest neighbours."""

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

NEIGHBOURS = 20


def neighbour_accuracy(
    known: Float[Tensor, "n d"],
    known_labels: Int64[Tensor, " n"],
    asked: Float[Tensor, "m d"],
    asked_labels: Int64[Tensor, " m"],
    neighbours: int = NEIGHBOURS,
) -> float:
    """Share of the asked whose class is that of most of their nearest known ones, by the angle between them."""
    similarity = F.normalize(asked.float(), dim=-1) @ F.normalize(known.float(), dim=-1).mT
    nearest = similarity.topk(min(neighbours, len(known)), dim=-1).indices
    votes = F.one_hot(known_labels[nearest]).sum(1)  # (m, k); a tie is for the first class
    return (votes.argmax(1) == asked_labels).double().mean().item()
