"""Owen values of an image: Shapley values in which the pixels of a block join and leave together.

The tree halves the image's longer side again and again. What a block adds is split between its halves by showing the
one alone and the other alone, both with the rest of its context hidden and with it shown, each of weight one half; the
block whose effect is largest is split first. What is not split when the evaluations are used up is spread evenly.

The algorithm of shap's PartitionExplainer, whose values it reproduces (Lundberg and Lee, 2017, arXiv 1705.07874; Owen,
1977, "Values of games with a priori unions"). Letters: n coalitions, k outputs, (h, w) pixels.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import UserError

Size = tuple[int, int]
Outputs = Float[np.ndarray, "n k"]


class Block(NamedTuple):
    """A rectangle of pixels; `bottom` and `right` are the first row and column below and beside it."""

    top: int
    left: int
    bottom: int
    right: int

    def halves(self) -> tuple["Block", "Block"]:
        """Cut across the longer side, or across the rows of a square. The lower or right half comes first, and is the
        smaller one of an odd number of pixels: shap numbers pixels backwards."""
        height, width = self.bottom - self.top, self.right - self.left
        if height >= width:
            middle = self.bottom - height // 2
            return self._replace(top=middle), self._replace(bottom=middle)
        middle = self.right - width // 2
        return self._replace(left=middle), self._replace(right=middle)

    def fits(self, cell: Size) -> bool:
        """Whether it is no larger than a cell."""
        return self.bottom - self.top <= cell[0] and self.right - self.left <= cell[1]


Coalition = tuple[Block, ...]  # the blocks that are shown, everything else is hidden


class Entry(NamedTuple):
    """A block in one context, and the rows of the outputs of that context without it and with it."""

    block: Block
    context: Coalition
    without: int
    together: int
    weight: float


class OwenTree:
    """The blocks of an image, split as far as the outputs seen so far allow; `outputs` holds those of all coalitions.

    `target` is the output whose effects say what is split next; ties go by random numbers of the seed.
    """

    def __init__(self, size: Size, cell: Size, target: int, outputs: Outputs, seed: int) -> None:
        """`outputs`: of nothing shown, and of everything."""
        self.size, self.cell, self.target = size, cell, target
        self.outputs = list(outputs)
        self._settled: dict[Block, Float[np.ndarray, " k"]] = defaultdict(lambda: np.zeros_like(outputs[0]))
        self._ties = np.random.RandomState(seed)  # the numbers that shap draws after np.random.seed(seed)
        self._queue: list[tuple[float, float, Entry]] = [(0.0, 0.0, Entry(Block(0, 0, *size), (), 0, 1, 1.0))]

    def take(self, count: int) -> list[Entry]:
        """Up to `count` entries to split, the largest effects first; none where all is split to cells."""
        chosen: list[Entry] = []
        while self._queue and len(chosen) < count:
            entry = heapq.heappop(self._queue)[2]
            if entry.block.fits(self.cell):
                self._settled[entry.block] += self._effect(entry)
            else:
                chosen.append(entry)
        return chosen

    def split(self, entries: Sequence[Entry], outputs: Outputs) -> None:
        """Replace entries by those of their halves, given the outputs of `coalitions(entries)`."""
        for number, entry in enumerate(entries):
            first, second = entry.block.halves()
            row = len(self.outputs)
            self.outputs += [outputs[2 * number], outputs[2 * number + 1]]
            hidden, weight = entry.context, entry.weight / 2
            self._push(Entry(first, hidden, entry.without, row, weight))
            self._push(Entry(second, hidden, entry.without, row + 1, weight))
            self._push(Entry(first, (*hidden, second), row + 1, entry.together, weight))
            self._push(Entry(second, (*hidden, first), row, entry.together, weight))

    def credits(self) -> "Credits":
        """What each block adds to the outputs, as far as is known: those still to be split as a whole."""
        found = dict(self._settled)
        for _, _, entry in self._queue:
            found[entry.block] = found.get(entry.block, 0.0) + self._effect(entry)
        return Credits(self.size, tuple(found), np.stack(list(found.values())))

    def _effect(self, entry: Entry) -> Float[np.ndarray, " k"]:
        return (self.outputs[entry.together] - self.outputs[entry.without]) * entry.weight

    def _push(self, entry: Entry) -> None:
        priority = -float(abs(self._effect(entry)[self.target]))
        heapq.heappush(self._queue, (priority, self._ties.randn(), entry))


@dataclass(frozen=True)
class Credits:
    """What blocks of an image, which may lie in one another, add to each output."""

    size: Size
    blocks: tuple[Block, ...]
    values: Float[np.ndarray, "blocks k"]

    def spread(self, size: Size, outputs: slice = slice(None)) -> Float[Tensor, "k height width"]:
        """Each block's credit evenly over its pixels in an image enlarged to `size`; sums stay what they are."""
        rows = _Axis.of([(block.top, block.bottom) for block in self.blocks], self.size[0], size[0])
        columns = _Axis.of([(block.left, block.right) for block in self.blocks], self.size[1], size[1])
        values = self.values[:, outputs]
        cells = np.zeros((values.shape[1], len(rows.lengths), len(columns.lengths)))
        for block, credit in zip(self.blocks, values, strict=True):
            down, right = rows.cells(block.top, block.bottom), columns.cells(block.left, block.right)
            area = rows.lengths[down].sum() * columns.lengths[right].sum()
            cells[:, down, right] += (credit / area)[:, None, None]
        spread = torch.from_numpy(cells).float()
        return spread.repeat_interleave(columns.repeats, 2).repeat_interleave(rows.repeats, 1)  # whole rows last


@dataclass(frozen=True)
class _Axis:
    """Rows or columns, cut into cells wherever a block ends; `lengths` are the cells' pixels in the enlarged image."""

    marks: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, ends: Sequence[tuple[int, int]], have: int, want: int) -> "_Axis":
        """From the ends of all blocks, when `have` pixels become `want`."""
        marks = np.unique(ends)
        return cls(marks, np.diff(np.rint(marks * (want / have)).astype(np.int64)))

    @property
    def repeats(self) -> Tensor:
        """The lengths as a tensor."""
        return torch.from_numpy(self.lengths)

    def cells(self, first: int, last: int) -> slice:
        """Those between two marks."""
        return slice(*np.searchsorted(self.marks, (first, last)).tolist())


def coalitions(entries: Sequence[Entry]) -> list[Coalition]:
    """What is to be seen of each entry: its context with the first half of its block, and with the second."""
    return [(*entry.context, half) for entry in entries for half in entry.block.halves()]


def shown_pixels(chosen: Sequence[Coalition], size: Size) -> Bool[Tensor, "n h w"]:
    """Coalitions as masks, True where a pixel is shown."""
    masks = np.zeros((len(chosen), *size), bool)
    for mask, blocks in zip(masks, chosen, strict=True):
        for top, left, bottom, right in blocks:
            mask[top:bottom, left:right] = True
    return torch.from_numpy(masks)


def grow(
    evaluate: Callable[[Sequence[Coalition]], Outputs],
    size: Size,
    *,
    target: int,
    budget: int,
    at_once: int,
    cell: Size,
    seed: int,
    enough: Callable[[OwenTree], bool],
) -> OwenTree:
    """Split with about `budget` evaluations (an odd number is rounded up), `at_once` in a round; `enough`, asked after
    each round, may end it earlier. Raises `UserError` for a target that is no output."""
    ends = evaluate([(), (Block(0, 0, *size),)])
    if not 0 <= target < ends.shape[1]:
        raise UserError(f"there is no class number {target}: the classifier's go from 0 to {ends.shape[1] - 1}")
    tree = OwenTree(size, cell, target, ends, seed)
    while len(tree.outputs) < budget and not enough(tree):
        room = min(at_once, budget - len(tree.outputs))
        entries = tree.take(-(-room // 2))
        if not entries:
            break
        tree.split(entries, evaluate(coalitions(entries)))
    return tree
