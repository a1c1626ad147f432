"""Exact incremental sampling of structures: the numbers of `StructureModel.logits`, each computed once.

    ids, log_likelihood = sample(model, codebook, h, num_variants=6, generators=generators)

All variants of one image share its condition `h`. The stream of the rows above runs a row at a time; so does what the
other stream takes from the row above. What is left for a single column is one small product for each convolution. Rows
whose tokens are all given are computed in parallel, rows below the last free one not at all. On a GPU a row is recorded
once as a CUDA graph and played back.

Shapes: n variants, ht wt tokens, D code dim, K codes, F width. Rows are channels-last.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from gen.inpaint.incremental import Block, Past, Product, RowConvolution, concat_elu
from gen.inpaint.structure import StructureModel
from workbench.errors import UserError

GROUP = 8  # variants are drawn so many at a time, always: then rounding is the same however many are asked for
OnRow = Callable[[int, Int64[Tensor, "n ht wt"]], None]


class Sampled(NamedTuple):
    """Structures, and the log-probability of each drawn token given those before it, at temperature 1; 0 elsewhere."""

    ids: Int64[Tensor, "n ht wt"]
    log_likelihood: Float[Tensor, "n ht wt"]


@torch.no_grad()
def sample(
    model: StructureModel,
    codebook: Float[Tensor, "k d"],
    h: Float[Tensor, "1 f ht wt"],
    num_variants: int,
    generators: Sequence[torch.Generator],
    temperature: float = 1.0,
    top_p: float = 1.0,
    forced: Int64[Tensor, "_ ht wt"] | None = None,
    on_row: OnRow | None = None,
) -> Sampled:
    """Draw structures for one image and mask.

    Args:
        model: on the device of `h`.
        codebook: of the VQ-VAE that the model belongs to.
        h: what `model.condition` gave.
        num_variants: how many to draw. Variant k depends on its own generator alone.
        generators: one for each variant.
        temperature: less than 1 for likelier structures.
        top_p: draw only from the likeliest tokens that together have this probability.
        forced: tokens that are given, for one or for all variants; -1 where one is to be drawn.
        on_row: called after each row of a group of variants with the row's number and the group's tokens so far, -1
            for those to come.

    Raises:
        UserError: a temperature or top_p that cannot work, or too few or many generators.
    """
    _check(num_variants, generators, temperature, top_p)
    grid = (h.shape[2], h.shape[3])
    if forced is None:
        forced = torch.full((1, *grid), -1)
    forced = forced.expand(num_variants, -1, -1)
    sampler = IncrementalSampler(model, codebook, h, temperature, top_p)
    groups = []
    for start in range(0, num_variants, GROUP):
        group = slice(start, min(start + GROUP, num_variants))
        noise = [gumbel_noise(grid, len(codebook), generator).to(h.device) for generator in generators[group]]
        groups.append(sampler.draw(torch.stack(noise), forced[group], on_row))
    return Sampled(*map(torch.cat, zip(*groups, strict=True)))


def _check(num_variants: int, generators: Sequence[torch.Generator], temperature: float, top_p: float) -> None:
    if num_variants < 1 or len(generators) != num_variants:
        raise UserError(f"{len(generators)} generators for {num_variants} variants; give 1 or more, and one for each")
    if not temperature > 0:
        raise UserError(f"the temperature is {temperature}; give more than 0")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}; give more than 0, up to 1")


def gumbel_noise(grid: tuple[int, int], num_codes: int, generator: torch.Generator) -> Float[Tensor, "ht wt k"]:
    """The largest of logits with this noise is a draw from their softmax; a token has its own, whatever is forced."""
    return -torch.empty(*grid, num_codes, device=generator.device).exponential_(generator=generator).log()


def nucleus(logits: Float[Tensor, "n k"], top_p: float) -> Float[Tensor, "n k"]:
    """-inf for all but the likeliest tokens that together have the probability `top_p` (Holtzman et al. 2020)."""
    ordered, order = logits.sort(-1, descending=True)
    share = ordered.softmax(-1)
    likelier = share.cumsum(-1) - share  # the probability of all that are likelier
    dropped = torch.empty_like(order, dtype=torch.bool).scatter_(-1, order, likelier >= top_p)
    return logits.masked_fill(dropped, -torch.inf)


class IncrementalSampler:
    """The autoregressive network for one condition, and what it remembers of a group of variants."""

    def __init__(
        self,
        model: StructureModel,
        codebook: Float[Tensor, "k d"],
        h: Float[Tensor, "1 f ht wt"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        network: Any = model.autoregression  # the type checker knows nothing of what is in a module list
        self.temperature, self.top_p = temperature, top_p
        self.num_rows, self.num_columns = h.shape[2:]
        self.codes = F.pad(codebook.float(), (0, 1), value=1.0)  # with the plane of ones
        condition = concat_elu(h[0].float().movedim(0, -1))
        self.row = torch.zeros(1, dtype=torch.int64, device=h.device)
        self.above = RowConvolution(network.above, GROUP, self.num_columns)
        self.row_above = Product(network.row_above)
        self.left = RowConvolution(network.left, GROUP, self.num_columns)
        self.u_blocks = [Block(block, GROUP, condition, self.row) for block in network.u_blocks]
        self.ul_blocks = [Block(block, GROUP, condition, self.row) for block in network.ul_blocks]
        self.output_layers = [Product(layer) for layer in network.output_blocks]
        self.out = Product(network.out)
        self.graph: torch.cuda.CUDAGraph | None = None
        self._make_row_buffers(h.device, network.left.out_channels)

    def _make_row_buffers(self, device: torch.device, width: int) -> None:
        """Of the row in hand: what is given, what was drawn, and what its tokens mean."""
        shape = (GROUP, self.num_columns)
        self.noise = torch.zeros(*shape, len(self.codes), device=device)
        self.forced = torch.zeros(shape, dtype=torch.int64, device=device)
        self.ids = torch.zeros_like(self.forced)
        self.log_likelihood = torch.zeros(shape, device=device)
        self.vectors = torch.zeros(*shape, self.codes.shape[1], device=device)  # until replaced, of the row above
        self.from_left = torch.zeros(GROUP, self.num_columns + 1, width, device=device)  # the first stays 0

    def draw(
        self, noise: Float[Tensor, "n ht wt k"], forced: Int64[Tensor, "n ht wt"], on_row: OnRow | None = None
    ) -> Sampled:
        """One group of at most `GROUP` variants; arguments as in `sample`."""
        count, ids = len(noise), forced.to(self.row.device, copy=True)
        log_likelihood = torch.zeros(ids.shape, device=ids.device)
        free = (forced < 0).any(0).tolist()  # where any variant is to be drawn
        self._reset()
        for row in range(1 + max((row for row in range(self.num_rows) if any(free[row])), default=-1)):
            self._take_row(row, ids[:, row], noise[:, row])
            self._fill_row(row, free[row])
            ids[:, row] = self.ids[:count]
            log_likelihood[:, row] = self.log_likelihood[:count]
            if on_row is not None:
                on_row(row, ids.clone())
        return Sampled(ids, log_likelihood)

    def teacher_forced_logits(self, ids: Int64[Tensor, "n ht wt"]) -> Float[Tensor, "n ht wt k"]:
        """Logits of given structures, a row at a time: equal to those that the model gives for all rows at once."""
        self._reset()
        rows = []
        for row in range(self.num_rows):
            self._take_row(row, ids[:, row])
            rows.append(self._head(self._given_row(row))[: len(ids)])
        return torch.stack(rows, dim=1)

    def _reset(self) -> None:
        memories: list[RowConvolution | Block] = [self.above, self.left, *self.u_blocks, *self.ul_blocks]
        for memory in memories:
            memory.reset()

    def _take_row(self, row: int, forced: Int64[Tensor, "n wt"], noise: Tensor | None = None) -> None:
        self.row.fill_(row)
        self.forced[: len(forced)] = forced
        if noise is not None:
            self.noise[: len(noise)] = noise

    # ---- a row -------------------------------------------------------------------------------------------------------

    def _fill_row(self, row: int, free: list[bool]) -> None:
        """Draw the free tokens of a row; take the others."""
        if not any(free):
            self._given_row(row)
        elif self.row.device.type == "cuda" and row > 0:
            self._play_row(row)
        else:
            self._drawn_row(row, free, record=False)

    def _play_row(self, row: int) -> None:
        """A row as a recorded graph, which is the same for all rows but the first: one launch for all its kernels."""
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._drawn_row(row, [True] * self.num_columns, record=True)
            self.graph = graph
        self.graph.replay()

    def _drawn_row(self, row: int, free: list[bool], record: bool) -> None:
        """A row column by column. For a record attention looks at all tokens, of which those to come are masked."""
        first, positions = self._start_row(row)
        for column in range(self.num_columns):
            here = slice(column, column + 1)
            length = self.num_rows * self.num_columns if record else row * self.num_columns + column
            ul = self._upper_left(first, here, Past(positions[here], length))
            if free[column]:
                self._draw_token(column, self._head(ul)[:, 0])
            else:
                self.ids[:, column], self.log_likelihood[:, column] = self.forced[:, column], 0.0
            self._remember(here)

    def _given_row(self, row: int) -> Float[Tensor, "n wt f"]:
        """A row whose tokens are all forced, at once."""
        first, positions = self._start_row(row)
        everywhere = slice(0, self.num_columns)
        self.ids.copy_(self.forced)
        self.log_likelihood.zero_()
        self._remember(everywhere)
        return self._upper_left(first, everywhere, Past(positions, (row + 1) * self.num_columns))

    def _start_row(self, row: int) -> tuple[Float[Tensor, "n wt f"], Int64[Tensor, " wt"]]:
        """The stream of the rows above, for this row: returns where the other stream starts, and the positions."""
        everywhere = slice(0, self.num_columns)
        if row == 0:  # shifts insert zeros, not biases
            u = first = torch.zeros_like(self.from_left[:, :-1])
        else:
            self.above.start_row()
            u = self.above(self.vectors, everywhere)
            first = self.row_above(self.above.windows())
        self.left.start_row()
        for u_block, ul_block in zip(self.u_blocks, self.ul_blocks, strict=True):
            u_block.start_row()
            u = u_block(u, everywhere)
            ul_block.start_row(concat_elu(u))
        return first, self.row * self.num_columns + torch.arange(self.num_columns, device=self.row.device)

    # ---- a column, or all of a row -----------------------------------------------------------------------------------

    def _upper_left(self, first: Float[Tensor, "n wt f"], columns: slice, past: Past) -> Float[Tensor, "n m f"]:
        """The stream that sees the rows above and what is to the left."""
        ul = first[:, columns] + self.from_left[:, columns]
        for block in self.ul_blocks:
            ul = block(ul, columns, past)
        return ul

    def _head(self, ul: Float[Tensor, "n m f"]) -> Float[Tensor, "n m k"]:
        for layer in self.output_layers:
            ul = ul + layer(F.elu(ul))
        return self.out(F.elu(ul))

    def _draw_token(self, column: int, logits: Float[Tensor, "n k"]) -> None:
        scaled = logits / self.temperature
        if self.top_p < 1:
            scaled = nucleus(scaled, self.top_p)
        forced = self.forced[:, column]
        ids = torch.where(forced < 0, (scaled + self.noise[:, column]).argmax(-1), forced)
        chosen = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        self.ids[:, column], self.log_likelihood[:, column] = ids, torch.where(forced < 0, chosen, 0.0)

    def _remember(self, columns: slice) -> None:
        """Tell the columns to the right, and the rows below, what the tokens of these columns are."""
        vectors = F.embedding(self.ids[:, columns], self.codes)
        self.vectors[:, columns] = vectors
        self.from_left[:, columns.start + 1 : columns.stop + 1] = self.left(vectors, columns)
