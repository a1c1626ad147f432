"""How good completions are: against the true image, against the true law, and against each other.

Shapes: n images, k completions of each. Images are in [-1, 1]; a mask is 1 in the hole.
"""

import torch
from inpaint_toy import CUES, LAW, Reading, Scenes, read
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

Figures = dict[str, float]
BOOTSTRAPS = 200

Images = Float[Tensor, "n c h w"]
Variants = Float[Tensor, "n k c h w"]
Mask = Float[Tensor, "n 1 h w"]


def to_bytes(images: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """Pixels as they are saved."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def psnr(squared: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """In dB, of mean squared errors of images in [-1, 1]."""
    return 10 * torch.log10(4 / squared.clamp(min=1e-8))


def hole_errors(variants: Variants, images: Images, mask: Mask) -> Float[Tensor, "n k"]:
    """Mean squared error in the hole."""
    squared = (variants - images[:, None]).square() * mask[:, None]
    return squared.sum((2, 3, 4)) / (mask.sum((1, 2, 3)) * images.shape[1])[:, None]


def fidelity_figures(variants: Variants, images: Images, mask: Mask) -> Figures:
    """Hole PSNR of one completion, of the best, and of the mean of all; and how the hole's border differs."""
    errors = hole_errors(variants, images, mask)
    mean_errors = hole_errors(variants.mean(1, keepdim=True), images, mask)
    return {
        "hole_psnr_one": psnr(errors[:, 0]).mean().item(),
        "hole_psnr_best": psnr(errors.min(1).values).mean().item(),
        "hole_psnr_mean": psnr(mean_errors[:, 0]).mean().item(),
        "border_error": border_error(variants[:, 0], images, mask),
    }


def border_error(completions: Images, images: Images, mask: Mask) -> float:
    """Mean absolute difference of the gradients across the hole's border from the true ones."""
    total, count = 0.0, 0.0
    for axis in (2, 3):
        border = mask.diff(dim=axis).abs()
        difference = (completions.diff(dim=axis) - images.diff(dim=axis)).abs() * border
        total += difference.sum().item() / images.shape[1]
        count += border.sum().item()
    return total / count


def diversity_figures(variants: Variants, mask: Mask, ids: Int64[Tensor, "n k t"]) -> Figures:
    """Mean absolute difference in the hole between completions of one image, whose structures are alike or not."""
    k = variants.shape[1]
    first, second = torch.triu_indices(k, k, 1)
    differences = (variants[:, first] - variants[:, second]).abs() * mask[:, None]
    pairs = differences.sum((2, 3, 4)) / (mask.sum((1, 2, 3)) * variants.shape[2])[:, None]
    same = (ids[:, first] == ids[:, second]).all(-1)
    return {
        "pair_l1": pairs[~same].mean().item() if (~same).any() else 0.0,
        "pair_l1_same_structure": pairs[same].max().item() if same.any() else 0.0,
        "share_of_same_structures": same.float().mean().item(),
    }


# ---- the toy's law ---------------------------------------------------------------------------------------------------


def law_figures(reading: Reading, cues: Int64[Tensor, " n"]) -> Figures:
    """Share of valid completions, and the distance of the law of their shapes from the true one, by cue.

    The reading is of all completions, image by image; invalid ones have no shape.
    """
    per_image = len(reading.shapes) // len(cues)
    shapes, valid = reading.shapes.view(-1, per_image), reading.valid.view(-1, per_image)
    figures = {"valid": valid.float().mean().item(), "possible": possible(shapes, valid, cues)}
    for cue, name in enumerate(CUES):
        here = cues == cue
        figures[f"tv_{name}"] = total_variation(shapes[here], valid[here], LAW[cue])
        low, high = interval(shapes[here], valid[here], LAW[cue])
        figures |= {f"tv_{name}_low": low, f"tv_{name}_high": high}
    return figures


def possible(shapes: Int64[Tensor, "n k"], valid: Bool[Tensor, "n k"], cues: Int64[Tensor, " n"]) -> float:
    """Share of completions that are valid and of a shape that the cue allows."""
    allowed = LAW[cues].gather(1, shapes) > 0
    return (valid & allowed).float().mean().item()


def total_variation(shapes: Int64[Tensor, "n k"], valid: Bool[Tensor, "n k"], law: Float[Tensor, " shapes"]) -> float:
    """Half the summed difference of the valid completions' law from the true one; 1 without any."""
    if not valid.any():
        return 1.0
    share = torch.bincount(shapes[valid], minlength=len(law)).float() / valid.sum()
    return (share - law).abs().sum().item() / 2


def interval(
    shapes: Int64[Tensor, "n k"], valid: Bool[Tensor, "n k"], law: Float[Tensor, " shapes"]
) -> tuple[float, float]:
    """5th and 95th percentile over draws of the images with replacement."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(BOOTSTRAPS):
        chosen = torch.randint(len(shapes), (len(shapes),), generator=generator)
        found.append(total_variation(shapes[chosen], valid[chosen], law))
    low, high = torch.tensor(found).quantile(torch.tensor([0.05, 0.95])).tolist()
    return low, high


def modes(reading: Reading, per_image: int) -> float:
    """Distinct pairs of shape and colour among the valid completions of an image, on average."""
    kinds = (reading.shapes * 3 + reading.colours).masked_fill(~reading.valid, -1).view(-1, per_image)
    return sum(len(set(row) - {-1}) for row in kinds.tolist()) / len(kinds)


def toy_figures(variants: Variants, scenes: Scenes, mask: Mask, ids: Int64[Tensor, "n k t"], images: Images) -> Figures:
    """All of an arm's completions."""
    reading = read(to_bytes(variants).flatten(0, 1))
    return {
        **law_figures(reading, scenes.cues),
        "modes": modes(reading, variants.shape[1]),
        **fidelity_figures(variants, images, mask),
        **diversity_figures(variants, mask, ids),
    }


def reading_figures(completions: Images, scenes: Scenes) -> Figures:
    """Of one completion of each image: shares of valid ones, and of those of the true shape; and its law."""
    reading = read(to_bytes(completions))
    right = reading.valid & (reading.shapes == scenes.shapes) & (reading.colours == scenes.colours)
    return {**law_figures(reading, scenes.cues), "right": right.float().mean().item()}
