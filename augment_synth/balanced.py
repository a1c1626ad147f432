"""Sampling so that groups, or classes, count alike: SUBG, SUBY, RWG, RWY (arXiv 2110.14503)."""

from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from augment_synth.resampling import reweighted, subsampled
from augment_synth.robust_recipe import RobustRecipe
from workbench import seeds

SUBSET = 6  # stream of randomness


class RWY(RobustRecipe):
    """Every class is drawn as often."""

    name = "rwy"

    def weights(self) -> Float64[Tensor, " n"]:
        return by_part(self.train.labels, self.train.synthetic)


class RWG(RobustRecipe):
    """Every group is drawn as often."""

    name = "rwg"
    needs_groups = True

    def weights(self) -> Float64[Tensor, " n"]:
        return by_part(self.train.known_groups(), self.train.synthetic)


class SUBY(RobustRecipe):
    """As many images of each class as the smallest has, chosen once."""

    name = "suby"

    def weights(self) -> Float64[Tensor, " n"]:
        return _subsampled(self, self.train.labels)


class SUBG(RobustRecipe):
    """As many images of each group as the smallest has, chosen once."""

    name = "subg"
    needs_groups = True

    def weights(self) -> Float64[Tensor, " n"]:
        return _subsampled(self, self.train.known_groups())


def _subsampled(recipe: RobustRecipe, members: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Among the real images: the synthetic ones, of whatever number, must not thin them out. Those keep equal shares
    of each class or group."""
    draws, synthetic = seeds.generator(recipe.config.seed, SUBSET), recipe.train.synthetic
    weights = by_part(members, synthetic)
    if not bool(synthetic.all()):
        weights[~synthetic] = subsampled(members[~synthetic], draws)
    return weights


def by_part(members: Int64[Tensor, " n"], synthetic: Bool[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """`reweighted` among the real and among the synthetic images."""
    return reweighted(2 * members + synthetic)
