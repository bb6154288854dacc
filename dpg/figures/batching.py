"""The parts that Figures 6 and 7 share: Algorithm 1 from prompts (left) to advantages (right)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dpg.figures.diagram import GREY, PROMPT_COLORS, Element, grid

ROWS, COLUMNS = 3, 4  # prompts, and outputs per prompt: G = 4 as in the paper


@dataclass
class Batching:
    """A diagram under construction; every length is in inches.

    Attributes:
        cell, gap: width of a cell, and the space between two cells.
        middle: height of the arrows, and of the middle of each grid.
        heading_height: height of the words over the grids.
        lift: distance from an arrow to the words over it.
        inset: distance from the diagram's left edge to the prompts.
        space: distance between a grid and the arrow after it.
        parts: the elements so far, in the order in which they are drawn.
    """

    cell: float
    gap: float
    middle: float
    heading_height: float
    lift: float
    inset: float
    space: float
    parts: list[Element] = field(default_factory=list)

    @property
    def wide(self) -> float:
        """Width of a grid of all rollouts."""
        return COLUMNS * (self.cell + self.gap) - self.gap

    @property
    def tall(self) -> float:
        """Height of a grid."""
        return ROWS * (self.cell + self.gap) - self.gap

    @property
    def bottom(self) -> float:
        """Lower edge of a grid."""
        return self.middle - self.tall / 2

    def arrow(
        self,
        left: float,
        length: float,
        words: str = "",
        *,
        height: float | None = None,
        size: float = 7,
    ) -> None:
        """Add an arrow to the right, with words over its middle."""
        height = self.middle if height is None else height
        self.parts.append(Element("arrow", left, height, length, 0.0, color=GREY))
        if words:
            place = (left + length / 2, height + self.lift)
            self.parts.append(Element("text", *place, text=words, size=size))

    def heading(self, middle: float, words: str, height: float | None = None) -> None:
        """Add the words over a grid."""
        height = self.heading_height if height is None else height
        self.parts.append(Element("text", middle, height, text=words, size=8))

    def frame(self, left: float, bottom: float, width: float, height: float) -> None:
        """Add a dashed outline."""
        self.parts.append(Element("frame", left, bottom, width, height, color=GREY))

    def cells(
        self,
        left: float,
        text: str,
        alpha: float,
        *,
        rows: int = ROWS,
        columns: int = COLUMNS,
        bottom: float | None = None,
        colors: Sequence[str] = PROMPT_COLORS,
        by: str = "row",
    ) -> None:
        """Add a grid; by default one row per prompt and one column per output."""
        self.parts += grid(
            left,
            self.bottom if bottom is None else bottom,
            rows,
            columns,
            cell=self.cell,
            gap=self.gap,
            text=text,
            alpha=alpha,
            colors=colors,
            by=by,
        )

    def begin(self, left: float, *, arrow: float, step: float) -> float:
        """Add prompts and rollouts, with an arrow between them.

        Args:
            left: left edge of the diagram.
            arrow: the arrow's length.
            step: distance from the arrow's start to the rollouts.

        Returns:
            The left edge of the rollouts.
        """
        self.heading(left + self.cell / 2 + self.inset, "Prompts")
        self.cells(left + self.inset, "$q$", 0.25, columns=1)
        left += self.inset + self.cell + self.space
        self.arrow(left, arrow, "Generate")
        left += step
        self.heading(left + self.wide / 2, "Rollouts")
        self.cells(left, "$o$", 0.55)
        return left

    def end(self, left: float, *, arrow: float, step: float, margin: float) -> None:
        """Add rewards and advantages, with an arrow between them.

        Args:
            left: left edge of the rewards.
            arrow: the arrow's length.
            step: distance from the arrow's start to the advantages.
            margin: distance from the cells of a group to the outline around them.
        """
        self.heading(left + self.wide / 2, "Rewards")
        self.cells(left, "$r$", 0.25)
        left += self.wide + self.space
        self.arrow(left, arrow, r"$\frac{r-\bar{r}}{\sigma_r}$", size=10)
        left += step
        self.heading(left + self.wide / 2, "Advantages")
        self.cells(left, r"$\hat{A}$", 0.25)
        pitch = self.cell + self.gap
        for row in range(ROWS):  # a row is a group, which has one mean and one deviation
            low = self.bottom + row * pitch - self.gap / 2
            self.frame(left - margin, low, self.wide + 2 * margin, pitch)
