"""Layers that the transformers of all recipes share.

Shapes: B batch, N tokens, D width, d head dim.
"""

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from jaxtyping import Float
from torch import Tensor, nn


class TokenLinear(nn.Linear):
    """A linear layer over tokens. On a CPU it runs as a 1x1 convolution: the same sums, through oneDNN's kernels,
    which were measured at twice the speed of the BLAS behind `nn.Linear` (docs/journal.md)."""

    def forward(self, x: Float[Tensor, "b n i"]) -> Float[Tensor, "b n o"]:
        if x.device.type != "cpu" or x.shape[1] == 1:  # of one token, torch's convolution depends on its alignment
            return super().forward(x)
        y = F.conv2d(x[:, None].permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).squeeze(1)


class AttentionProcessor:
    """Scaled dot products by the back-end that `model.set_attention_backend` chose.

    Unless one was chosen, a CPU computes them in fp32 even under bf16 autocast: its bf16 kernel's backward pass was
    measured at a fifth of the speed (docs/journal.md).
    """

    _attention_backend: AttentionBackendName | None = None
    _parallel_config = None

    def attend(
        self,
        q: Float[Tensor, "b heads n d"],
        k: Float[Tensor, "b heads m d"],
        v: Float[Tensor, "b heads m d"],
        scale: float | None = None,
    ) -> Float[Tensor, "b n heads*d"]:
        """What each query reads, its heads side by side, in the values' precision; `scale` is 1 / sqrt(d) if None."""
        if v.device.type == "cpu" and self._attention_backend is None:
            with torch.autocast("cpu", enabled=False):
                x = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale).to(v.dtype)
            return x.transpose(1, 2).flatten(2)
        q, k, v = (part.to(v.dtype).transpose(1, 2) for part in (q, k, v))  # (B, N, heads, d), as back-ends take it
        x = dispatch_attention_fn(
            q, k, v, scale=scale, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return x.flatten(2)
