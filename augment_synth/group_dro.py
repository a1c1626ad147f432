"""Group DRO: minimise the loss of the group that is worst off (Sagawa et al., 2020, arXiv 1911.08731, algorithm 1)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from augment_synth.balanced import RWG
from augment_synth.groups import GroupedImages
from augment_synth.robust_config import RobustConfig
from workbench.recipe import Draws


class GroupDRO(RWG):
    """Groups are drawn alike; each one's loss counts as much as its weight q, which grows with that loss.

    q moves after the step that used it, once, by the losses of the whole global batch on all processes.
    """

    name = "group-dro"

    def __init__(self, config: RobustConfig, train: GroupedImages, validation: GroupedImages | None = None) -> None:
        super().__init__(config, train, validation)
        self.sizes = torch.tensor(list(train.group_counts().values()), dtype=torch.float32)
        present = (self.sizes > 0).float()
        self.model.register_buffer("group_weights", present / present.sum())  # saved with every checkpoint
        self.sums = torch.zeros(2, len(present))  # over this step: losses of each group, and its images

    @property
    def q(self) -> Float[Tensor, " g"]:
        """The weight of each group; they sum to 1."""
        return self.model.get_buffer("group_weights")

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """A step begins."""
        self.sums = torch.zeros_like(self.sums, device=generator.device)
        return super().draw(batch_size, generator, step)

    def objective(
        self, model: nn.Module, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, ""]:
        """The sum over groups of q_g times the mean loss of g."""
        assert self.groups is not None
        losses = F.cross_entropy(model(images.float() / 255).float(), labels, reduction="none")
        sums = group_sums(losses, self.groups[draws["rows"]], len(self.sizes))
        self.sums += sums.detach()
        return (self.q * _means(sums)).sum()

    def after_step(self, step: int) -> None:
        """Move q."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.sums)
        adjustment = self.config.dro_adjustment / self.sizes.clamp(min=1).sqrt().to(self.sums)
        self.q.copy_(updated_weights(self.q, _means(self.sums) + adjustment, self.config.dro_step_size))


def group_sums(losses: Float[Tensor, " b"], groups: Int64[Tensor, " b"], count: int) -> Float[Tensor, "2 count"]:
    """The sum of the losses of each group, and how many there are."""
    summands = torch.stack([losses, torch.ones_like(losses)])
    return torch.zeros(2, count, device=losses.device).index_add(1, groups, summands)


def _means(sums: Float[Tensor, "2 g"]) -> Float[Tensor, " g"]:
    return sums[0] / sums[1].clamp(min=1)


def updated_weights(q: Float[Tensor, " g"], losses: Float[Tensor, " g"], step_size: float) -> Float[Tensor, " g"]:
    """q_g exp(step_size * loss_g), normalised."""
    return (q.log() + step_size * losses).softmax(0)
