"""The pixel grid of a scene in scene units, and what can be painted on it at any resolution.

A scene is a function of continuous coordinates: its origin is the top left corner and the shorter side of the
whole picture is one unit. A canvas samples it on a pixel grid. Shapes are signed distances in those units
(negative inside), photographs are averaged over the exact area of each pixel, so every size is a native
rendering and a crop of a scene is the same function on a shifted grid.

Everything is elementwise NumPy: a picture does not depend on the batch that it is painted in.
Letters: n scenes, h rows, w columns.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import UserError

SMALLEST_SIDE = 8
LARGEST_ASPECT = 4


@dataclass(frozen=True)
class Canvas:
    """Pixel centres of n pictures, in units, and the height and width of the whole pictures, in units."""

    rows: Float[np.ndarray, "n h"]
    columns: Float[np.ndarray, "n w"]
    pixels_per_unit: Float[np.ndarray, " n"]
    height: Float[np.ndarray, " n"]
    width: Float[np.ndarray, " n"]

    def offsets(
        self, row: Float[np.ndarray, " n"], column: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n h 1"], Float[np.ndarray, "n 1 w"]]:
        """Pixel centres relative to one point per scene, in units, shaped to broadcast to (n, h, w)."""
        down = (self.rows - row[:, None]).astype(np.float32)
        right = (self.columns - column[:, None]).astype(np.float32)
        return down[:, :, None], right[:, None, :]

    def coverage(self, distance: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h w"]:
        """How much of each pixel a shape covers, in [0, 1]: its edge is a ramp one pixel wide."""
        scale = self.pixels_per_unit.astype(np.float32)[:, None, None]
        return np.clip(np.float32(0.5) - distance * scale, 0, 1)

    def photograph(
        self,
        tables: Float[np.ndarray, "k table_rows table_columns"],
        which: Int[np.ndarray, " n"],
        place: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
        photo_pixels_per_unit: Float[np.ndarray, " n"],
    ) -> Float[np.ndarray, "n h w"]:
        """What each pixel sees of photograph number `which` of `sum_table`, its top left corner at `place`."""
        half = 0.5 / self.pixels_per_unit[:, None]
        edges = [
            (np.concatenate([centres - half, centres[:, -1:] + half], axis=1) - start[:, None])
            * photo_pixels_per_unit[:, None]
            for centres, start in zip((self.rows, self.columns), place, strict=True)
        ]
        return area_average(tables, which, *edges)


def picture_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of a size given as one number or as (height, width).

    Raises `UserError` for a side below 8 pixels or a longer side of more than 4 times the shorter.
    """
    height, width = (size, size) if isinstance(size, int) else size
    shorter, longer = min(height, width), max(height, width)
    if shorter < SMALLEST_SIDE or longer > LARGEST_ASPECT * shorter:
        raise UserError(
            f"A scene of {height}x{width} pixels was asked for; give sides of at least {SMALLEST_SIDE} "
            f"pixels, the longer at most {LARGEST_ASPECT} times the shorter."
        )
    return height, width


def canvas(size: tuple[int, int], boxes: Float[np.ndarray, "n 4"]) -> Canvas:
    """The canvases of `size` (height, width) pixels that show `boxes` of n scenes.

    A box is (top, left, height, width) as fractions of the whole picture; (0, 0, 1, 1) is the whole picture.
    Pixels are square, so the size and the box together say what the aspect of the whole picture is. Raises
    `UserError` for a box that reaches outside.
    """
    top, left, box_height, box_width = boxes.astype(np.float64).T
    inside = (boxes[:, :2] >= 0) & (boxes[:, 2:] > 0) & (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-6)
    if not inside.all():
        worst = boxes[~inside.all(axis=1)][0].tolist()
        raise UserError(f"The box {worst} reaches outside the picture; give (top, left, height, width) in [0, 1].")
    whole_height, whole_width = size[0] / box_height, size[1] / box_width  # in pixels of this canvas
    scale = np.minimum(whole_height, whole_width)
    rows = (top * whole_height)[:, None] + np.arange(size[0]) + 0.5
    columns = (left * whole_width)[:, None] + np.arange(size[1]) + 0.5
    scale_column = scale[:, None]
    return Canvas(rows / scale_column, columns / scale_column, scale, whole_height / scale, whole_width / scale)


def paint(
    image: Float[np.ndarray, "n 3 h w"],
    colour: Float[np.ndarray, "n 3 #h #w"],
    alpha: Float[np.ndarray, "n h w"],
) -> None:
    """Lays a colour over the image, in place: `alpha` 1 replaces the pixel, 0 leaves it exactly as it is."""
    image += alpha[:, None] * (colour - image)


# Signed distances to shapes around the origin, which all fit into a circle of the given radius. `down` and
# `right` are offsets from the shape's centre that broadcast to (n, h, w); `radius` is (n, 1, 1).

Offsets = Float[np.ndarray, "n _ _"]
Radius = Float[np.ndarray, "n 1 1"]
Distance = Float[np.ndarray, "n h w"]


def turn(down: Offsets, right: Offsets, angle: Float[np.ndarray, " n"]) -> tuple[Distance, Distance]:
    """The offsets in the frame of a shape that is turned clockwise by `angle` radians."""
    cosine, sine = (part.astype(np.float32)[:, None, None] for part in (np.cos(angle), np.sin(angle)))
    return cosine * down - sine * right, sine * down + cosine * right


def box_distance(down: Offsets, right: Offsets, half_height: Radius, half_width: Radius) -> Distance:
    """Signed distance to a rectangle (exact, inside and out)."""
    beyond_down, beyond_right = np.abs(down) - half_height, np.abs(right) - half_width
    outside = np.sqrt(np.maximum(beyond_down, 0) ** 2 + np.maximum(beyond_right, 0) ** 2)
    return outside + np.minimum(np.maximum(beyond_down, beyond_right), 0)


def disc_distance(down: Offsets, right: Offsets, radius: Radius) -> Distance:
    """Signed distance to a disc."""
    return np.sqrt(down**2 + right**2) - radius


def ring_distance(down: Offsets, right: Offsets, radius: Radius) -> Distance:
    """Signed distance to a ring whose hole has 0.55 of its radius."""
    return np.abs(disc_distance(down, right, 0.775 * radius)) - 0.225 * radius


def square_distance(down: Offsets, right: Offsets, radius: Radius) -> Distance:
    """Signed distance to the square whose corners lie on the circle."""
    half = radius * np.float32(np.sqrt(0.5))
    return box_distance(down, right, half, half)


def cross_distance(down: Offsets, right: Offsets, radius: Radius) -> Distance:
    """Signed distance to a plus sign, arms 0.36 as wide as its span (deep inside, a lower bound)."""
    length = radius * np.float32(1 / np.sqrt(1 + 0.36**2))  # the arms' corners lie on the circle
    width = 0.36 * length
    return np.minimum(box_distance(down, right, length, width), box_distance(down, right, width, length))


def kite_distance(down: Offsets, right: Offsets, radius: Radius) -> Distance:
    """Signed distance to an upright rhombus, 0.7 as wide as high (beyond its corners, a lower bound)."""
    half_width = 0.7 * radius
    slant = np.sqrt(radius**2 + half_width**2)
    return (np.abs(down) * half_width + np.abs(right) * radius - radius * half_width) / slant


def cup_distance(down: Offsets, right: Offsets, radius: Radius) -> Distance:
    """Signed distance to a mug seen from the side: a box with a round handle on its right."""
    body = box_distance(down, right + 0.2 * radius, 0.65 * radius, 0.5 * radius)
    handle = np.abs(disc_distance(down, right - 0.35 * radius, 0.35 * radius)) - 0.13 * radius
    return np.minimum(body, handle)


# Photographs, as tables of sums: entry (y, x) is the sum of all pixels above and to the left.


def sum_table(photos: Float[np.ndarray, "k height width"]) -> Float[np.ndarray, "k _ _"]:
    """Sums over all rectangles from the top left corner; any area average is four look-ups (Crow 1984)."""
    return np.pad(photos.astype(np.float64), ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)


def area_average(
    tables: Float[np.ndarray, "k table_rows table_columns"],
    which: Int[np.ndarray, " n"],
    row_edges: Float[np.ndarray, "n h_plus_1"],
    column_edges: Float[np.ndarray, "n w_plus_1"],
) -> Float[np.ndarray, "n h w"]:
    """The exact average of a photograph over each pixel; beyond the photograph it counts as zero.

    `which` is the table that each scene reads; the edges of its pixels are in pixels of the photograph.
    Averages of a fine rendering equal the coarse rendering, so there is neither aliasing nor a preferred
    size.
    """
    above, down = _whole_and_rest(row_edges[:, :, None], tables.shape[1] - 2)
    before, right = _whole_and_rest(column_edges[:, None, :], tables.shape[2] - 2)
    table_of = which[:, None, None]
    left_sums = tables[table_of, above, before] * (1 - down) + tables[table_of, above + 1, before] * down
    before = before + 1
    right_sums = tables[table_of, above, before] * (1 - down) + tables[table_of, above + 1, before] * down
    sums = left_sums * (1 - right) + right_sums * right
    areas = np.diff(row_edges)[:, :, None] * np.diff(column_edges)[:, None, :]
    return (np.diff(np.diff(sums, axis=1), axis=2) / areas).astype(np.float32)


def _whole_and_rest(edges: Float[np.ndarray, "n _ _"], last: int) -> tuple[np.ndarray, np.ndarray]:
    within = np.clip(edges, 0, last + 1)
    whole = np.minimum(within.astype(np.int64), last)
    return whole, within - whole
