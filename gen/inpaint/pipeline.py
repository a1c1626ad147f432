"""Several different completions of one picture, in the manner of a diffusers pipeline.

pipe = DiverseInpaintPipeline.from_pretrained("runs/NAME/pipeline")
completions = pipe("photo.jpg", "mask.png", num_variants=6, seed=1)    # white is what to fill
completions.images[0].save("variant-00.png")
more = pipe("photo.jpg", "mask.png", like=completions.tokens[3], keep=0.5, seed=100)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from gen.inpaint.attention import hole_tokens
from gen.inpaint.completion import Completions, Cut, Painted, complete
from gen.inpaint.masks import LARGEST_HOLE
from gen.inpaint.pictures import MAX_PIXELS, Source, read_mask, read_picture
from gen.inpaint.prefill import near, prefilled
from gen.inpaint.ranking import mean_log_likelihood, select
from gen.inpaint.sampler import GROUP, OnRow, Sampled, sample
from gen.inpaint.structure import StructureModel
from gen.inpaint.texture import TextureGenerator
from gen.inpaint.texture_losses import completed
from gen.inpaint.vqvae import HierarchicalVQVAE, check_codebook
from gen.pipelines import FolderPipeline
from workbench import seeds
from workbench.errors import UserError

FAR_OUTSIDE = 1.5  # times the largest hole in training: more is refused

Tokens = Int64[Tensor, "p ht wt"]  # of each plane of a region


@dataclass(frozen=True)
class Request:
    """How variants are drawn; see `DiverseInpaintPipeline.__call__`."""

    num_variants: int = 6
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    mode: str = "all"
    num_candidates: int | None = None
    like: Sequence[Tokens] | None = None
    keep: float = 0.5
    on_row: OnRow | None = None

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        if self.num_variants < 1:
            raise UserError(f"num_variants is {self.num_variants}; give 1 or more")
        if self.num_candidates is not None and self.num_candidates < self.num_variants:
            raise UserError(
                f"num_candidates is {self.num_candidates}, less than num_variants {self.num_variants}; give more"
            )
        if self.mode not in ("all", "fast"):
            raise UserError(f"mode is {self.mode!r}; give all or fast")
        if not 0 <= self.keep <= 1:
            raise UserError(f"keep is {self.keep}; give a share from 0 to 1")

    @property
    def drawn_seeds(self) -> list[int]:
        """Of all candidates."""
        return [self.seed + k for k in range(self.num_candidates or self.num_variants)]


class DiverseInpaintPipeline(FolderPipeline):
    """Draws a structure for each variant, then paints each over.

    `fast_distance`: how far from a hole, in tokens, those of a prefilled image can be trusted; None for nowhere.
    """

    model_cpu_offload_seq = "structure->vqvae->texture"
    _home = "gen.inpaint.pipeline"

    def __init__(
        self,
        vqvae: HierarchicalVQVAE,
        structure: StructureModel,
        texture: TextureGenerator,
        fast_distance: int | None = None,
    ) -> None:
        super().__init__()
        check_codebook(vqvae, structure, "structure")
        check_codebook(vqvae, texture, "texture")
        self.register_modules(vqvae=vqvae, structure=structure, texture=texture)
        self.register_to_config(fast_distance=fast_distance)

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width in pixels of a training image."""
        height, width = self.texture.config.sample_size
        return height, width

    @property
    def largest_hole(self) -> float:
        """Share of an image that a hole may cover: somewhat more than in training."""
        shares = [LARGEST_HOLE[kind] for kind in self.structure.config.mask_kinds]
        return min(1.0, FAR_OUTSIDE * max(shares, default=1.0))

    @torch.no_grad()
    def __call__(
        self,
        image: Source,
        mask_image: Source,
        num_variants: int = 6,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        mode: str = "all",
        num_candidates: int | None = None,
        like: Sequence[Tokens] | None = None,
        keep: float = 0.5,
        invert_mask: bool = False,
        max_image_pixels: int = MAX_PIXELS,
        on_row: OnRow | None = None,
    ) -> Completions:
        """Complete a picture of any size; its known pixels stay as they are, to the bit.

        Args:
            image: a file, a Pillow image or uint8 pixels.
            mask_image: of the same size, white (or 1) where to fill.
            num_variants: completions to make. Variant k depends on `seed` + k, not on how many there are.
            temperature, top_p: of the draws: less is likelier and less varied.
            mode: "all" draws the whole structure; "fast" takes it from the picture where it is far from the hole.
            num_candidates: draw so many and show `num_variants` of them: likely ones that differ from each other.
            like: tokens of an earlier completion of this picture and mask: keep the share `keep` of those in the hole,
                from the top, and draw the rest.
            invert_mask: black (or 0) is where to fill.
            max_image_pixels: refuse larger files.
            on_row: called after each row of tokens, as in `sampler.sample`; may raise to stop.

        Raises:
            UserError: a picture or mask that cannot be read, do not fit together or leave too little to go by; a
                setting that cannot work; a fast mode that the model does not have.
        """
        request = Request(num_variants, seed, temperature, top_p, mode, num_candidates, like, keep, on_row)
        request.check()
        picture = read_picture(image, max_image_pixels)
        hole = read_mask(mask_image, picture.size, invert_mask, max_image_pixels)
        channels = self.vqvae.config.channels
        return complete(picture, hole, self.native_size, channels, lambda cuts: self.paint(cuts, request))

    @torch.no_grad()
    def paint(self, cuts: Sequence[Cut], request: Request) -> Painted:
        """Variants of images at the model's own size: structures are drawn, some are chosen, and each is painted."""
        cuts = [Cut(*(part.to(self._execution_device, torch.float32) for part in one)) for one in cuts]
        for one in cuts:
            self._check_hole(float(one.mask.mean()))
        drawn = self._draw(cuts, request)
        holes = [self._hole(one) for one in cuts]
        likelihood = mean_log_likelihood(*_joint([found.log_likelihood for found in drawn], holes))
        chosen = list(range(request.num_variants))
        if request.num_candidates:
            chosen = select(*_joint([found.ids for found in drawn], holes), likelihood, request.num_variants)
        ids = [found.ids[chosen] for found in drawn]
        return Painted(
            seeds=[request.drawn_seeds[k] for k in chosen],
            images=[self._texture(one, tokens) for one, tokens in zip(cuts, ids, strict=True)],
            structures=[self._structures(tokens) for tokens in ids],
            tokens=[tokens.cpu() for tokens in ids],
            log_likelihoods=likelihood[chosen].tolist(),
        )

    def _check_hole(self, share: float) -> None:
        if share > self.largest_hole or share == 1:
            raise UserError(
                f"the hole covers {share:.0%} of what the network would see, and it learned to fill up to "
                f"{self.largest_hole / FAR_OUTSIDE:.0%}: give a smaller hole, or a model trained with larger ones "
                "(--masks half)"
            )

    # ---- structures --------------------------------------------------------------------------------------------------

    def _draw(self, cuts: Sequence[Cut], request: Request) -> list[Sampled]:
        """Candidates for each region: ids of shape (n, p, ht, wt)."""
        groups = -(-len(request.drawn_seeds) // GROUP)
        rows = self.vqvae.grid(*self.native_size)[0] * groups * sum(len(one.images) for one in cuts)
        with self.progress_bar(total=rows) as bar:

            def on_row(row: int, ids: Tensor) -> None:
                bar.update()
                if request.on_row is not None:
                    request.on_row(row, ids)

            return [self._draw_region(number, one, request, on_row) for number, one in enumerate(cuts)]

    def _draw_region(self, number: int, one: Cut, request: Request, on_row: OnRow) -> Sampled:
        """Each variant has the same noise in all planes of a region, and other noise in each region."""
        forced = self._forced(number, one, request)
        mask = one.mask.expand(len(one.images), -1, -1, -1)
        h = self.structure.condition(one.images * (1 - mask), mask)
        planes = [
            sample(
                self.structure, self.vqvae.top.codebook, h[plane : plane + 1], len(request.drawn_seeds),
                [seeds.generator(seed, number) for seed in request.drawn_seeds], request.temperature, request.top_p,
                forced[plane : plane + 1], on_row,
            )
            for plane in range(len(h))
        ]  # fmt: skip
        return Sampled(*(torch.stack(parts, dim=1) for parts in zip(*planes, strict=True)))

    def _forced(self, number: int, one: Cut, request: Request) -> Tokens:
        """What of the structures is given; -1 where it is to be drawn."""
        hole = self._hole(one)
        forced = torch.full((len(one.images), *hole.shape), -1, device=hole.device)
        if request.mode == "fast":
            if self.config.fast_distance is None:
                raise UserError("this model has no fast mode: it can trust no tokens beside a hole; give mode all")
            given = self.vqvae.encode(prefilled(one.images, one.mask)).top_ids
            forced = torch.where(near(hole, self.config.fast_distance), -1, given)
        if request.like is not None:
            forced = torch.where(first_of(hole, request.keep), _liked(request.like, number, forced), forced)
        return forced

    def _hole(self, one: Cut) -> Bool[Tensor, "ht wt"]:
        grid = self.vqvae.grid(*one.mask.shape[-2:])
        return hole_tokens(one.mask, grid).view(grid)

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def _texture(self, one: Cut, ids: Int64[Tensor, "n p ht wt"]) -> Float[Tensor, "n p c h w"]:
        """One variant at a time: then its rounding does not depend on how many there are."""
        mask = one.mask.expand(len(one.images), -1, -1, -1)
        masked = one.images * (1 - mask)
        painted = [self.texture(masked, mask, self.vqvae.top.vectors(variant)) for variant in ids]
        return torch.stack([completed(image.float(), one.images, mask) for image in painted])

    def _structures(self, ids: Int64[Tensor, "n p ht wt"]) -> Float[Tensor, "n p c h w"]:
        return torch.stack([self.vqvae.structure_picture(variant) for variant in ids])


def first_of(hole: Bool[Tensor, "ht wt"], share: float) -> Bool[Tensor, "ht wt"]:
    """All places, in raster order, before that share of the hole is passed."""
    passed = hole.flatten().cumsum(0).view(hole.shape)
    return passed <= round(share * int(hole.sum()))


def _liked(like: Sequence[Tensor], number: int, forced: Tokens) -> Tokens:
    """The earlier completion's tokens of this region."""
    if number >= len(like) or like[number].shape != forced.shape:
        raise UserError("like holds the tokens of another picture or mask; give those of a completion of this one")
    return like[number].to(forced.device)


def _joint(parts: Sequence[Tensor], holes: Sequence[Bool[Tensor, "_ht _wt"]]) -> tuple[Tensor, Bool[Tensor, " t"]]:
    """Tokens (or their likelihoods) of all regions and planes side by side, and which of them are in a hole."""
    places = [hole.flatten().repeat(part.shape[1]) for part, hole in zip(parts, holes, strict=True)]
    return torch.cat([part.flatten(1) for part in parts], dim=1), torch.cat(places)
