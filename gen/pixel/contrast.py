"""The contrastive loss, with the keys of all processes as negatives."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def nce(
    queries: Float[Tensor, "b d"], keys: Float[Tensor, "b d"], temperature: float | Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean of -q_n.k_n / tau + logsumexp_m(q_n.k_m / tau), of vectors of unit length, m over all processes' keys.

    The n-th key belongs to the n-th query. No gradient passes into the keys. Computed in fp32 whatever the precision
    around it: normalising in half precision was another project's source of NaN.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = F.normalize(queries.float(), dim=-1)
        keys = F.normalize(gather_keys(keys.float()), dim=-1)
        return F.cross_entropy(queries @ keys.mT / temperature, torch.arange(len(queries), device=queries.device))


@torch.no_grad()
def gather_keys(keys: Float[Tensor, "b d"]) -> Float[Tensor, "m d"]:
    """The keys of all processes, this one's first; each process has to bring as many."""
    keys = keys.detach()
    if num_processes() == 1:
        return keys
    parts = [torch.empty_like(keys) for _ in range(num_processes())]
    dist.all_gather(parts, keys.contiguous())
    del parts[dist.get_rank()]
    return torch.cat([keys, *parts])


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
