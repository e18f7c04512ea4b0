"""The illustrations: the networks, a 3-D convolution, the frames that training sees. Each function gives a figure."""

import itertools
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from torch import Tensor, nn

from framebudget import models
from framebudget.models.slowfast import SlowFast
from framebudget.params import MODELS, Input
from framebudget.report.plots import COLUMN, MODEL_COLOUR, PAGE, PALETTE
from framebudget.video import sampling

Shape = tuple[int, ...]  # C, T, H, W
Point = tuple[float, float]
Colour = tuple[float, float, float]

TRUNK = ["stem", "res2", "res3", "res4", "res5"]  # the first five blocks of either network, by the papers' names
FAST = PALETTE[2]
BACK = np.array([0.83, 0.55])  # where one inch backwards goes in a drawing
INK, PALE = "0.2", "0.45"
SMALL = 7  # points: no text is smaller
MARGIN, TABLE = 0.05, 0.95  # inches from the left: what a row is called, and its first column


class Stage(NamedTuple):
    name: str
    shape: Shape  # of what leaves it
    blocks: int = 0  # residual blocks in it
    lateral: Shape | None = None  # of what the fast pathway adds to its channels


class Stages(NamedTuple):
    pathways: list[list[Stage]]  # one, or the slow and the fast one; each begins with its clip
    joined: Stage | None  # where there are two


class Box(NamedTuple):
    """Where a stage was drawn."""

    left: float
    right: float
    bottom: float
    top: float
    lateral: float  # the middle of what is added, on the front


def stages(model: str, T: int, crop: int) -> Stages:
    """What a network makes of T frames of crop×crop pixels: the shapes between its modules, run without storage."""
    given, made = {}, {}

    def note(name: str, _: nn.Module, inputs: tuple, output: Tensor | list) -> None:
        for known, value in ((given, inputs[0]), (made, output)):
            if isinstance(value, Tensor):  # and not the list of both pathways
                known[name] = tuple(value.shape[1:])

    with torch.device("meta"), torch.no_grad():
        network = models.BUILD[model](2).eval()
        for name, module in network.named_modules():
            module.register_forward_hook(partial(note, name))
        network(torch.empty(1, 3, T, crop, crop))

    def pathway(names: list[str], modules: list[str], fusions: list[str]) -> list[Stage]:
        line = [Stage("clip", given[modules[0]])]
        for name, module, fusion in itertools.zip_longest(names, modules, fusions):
            blocks = len(getattr(network.get_submodule(module), "res_blocks", []))
            line.append(Stage(name, made[module], blocks, made.get(fusion)))
        return line

    if not isinstance(network, SlowFast):
        trunk, head = [f"blocks.{i}" for i in range(5)], ["pre_conv", "pool", "post_conv"]
        names = [*TRUNK, "conv5", "pool5", "fc1"]
        return Stages([pathway(names, trunk + [f"blocks.5.pool.{name}" for name in head], [])], None)
    slow, fast = ([f"blocks.{i}.multipathway_blocks.{p}" for i in range(5)] + [f"blocks.5.pool.{p}"] for p in range(2))
    fusions = [f"blocks.{i}.multipathway_fusion.conv_fast_to_slow" for i in range(5)]
    names = [*TRUNK, "pool"]
    return Stages([pathway(names, slow, fusions), pathway(names, fast, [])], Stage("concat", made["blocks.5"]))


def network(model: str, T: int, crop: int) -> Figure:
    """The stages of a network as boxes, for T frames of crop×crop pixels, and their shapes in figures.

    A box is as wide as the root of its channels, as high as the root of H, and one slice deep for every frame. What a
    lateral connection adds to a slow box is the strip in the colour of the fast pathway.
    """
    pathways, joined = stages(model, T, crop)
    columns = [list(column) for column in zip(*pathways, strict=True)]
    if joined:
        columns.append([joined._replace(shape=pathways[0][-1].shape, lateral=pathways[1][-1].shape)])
    most = max(sum(channels(stage)) for column in columns for stage in column)
    unit = np.array([0.62 / most**0.5, 0.9 / crop**0.5, min(0.04, 0.24 / T)])
    widths = [max(0.5, *(extent(stage, unit) for stage in column)) for column in columns] + [0.45]
    gap = (PAGE - TABLE - MARGIN - sum(widths)) / (len(widths) - 1)
    centres = TABLE + np.cumsum(widths) - np.array(widths) / 2 + gap * np.arange(len(widths))

    height, middles, tables = (3.43, [2.13, 1.0], [2.97, 0.42]) if joined else (2.07, [1.12], [0.44])
    axes, colours = canvas(PAGE, height), [MODEL_COLOUR[model], FAST]
    frames = "1 frame" if T == 1 else f"{T} frames"
    label(axes, MARGIN, height - 0.11, f"{MODELS[model]}, {frames} of {crop} × {crop} pixels", ha="left", size=9)
    for x, stage in zip(centres, pathways[0], strict=False):
        heading(axes, x, height - 0.31, stage.name)
    ends = []
    for line, y, table, colour in zip(pathways, middles, tables, colours, strict=False):
        boxes = [box(axes, x, y, stage, unit, [colour, FAST]) for x, stage in zip(centres, line, strict=False)]
        for before, after in itertools.pairwise(boxes):
            arrow(axes, (before.right, y), (after.left, y))
        shapes(axes, table, centres, line)
        ends.append(boxes)

    middle = sum(middles) / len(middles)
    key(axes, middle)
    if not joined:
        logits(axes, boxes[-1].right, centres[-1], middle, height - 0.31, tables[0])
        return axes.figure
    laterals(axes, pathways[0], *ends, middle)
    for name, y in zip(("Slow", "Fast"), middles, strict=True):
        heading(axes, MARGIN, y, f"{name} pathway", ha="left")
    both = box(axes, centres[-2], middle, *columns[-1], unit, colours)
    for (*_, pool), y, side in zip(ends, middles, (both.top, both.bottom), strict=True):
        arrow(axes, (pool.right, y), (centres[-2], side), connectionstyle="angle,angleA=0,angleB=90,rad=4")
    heading(axes, centres[-2] + 0.06, both.top + 0.1, joined.name, ha="left")
    label(axes, centres[-2] + 0.06, both.bottom - 0.14, "{} × {}\n× {} × {}".format(*joined.shape), ha="left")
    logits(axes, both.right, centres[-1], middle, middle + 0.29, middle - 0.29)
    return axes.figure


def shapes(axes: Axes, top: float, centres: np.ndarray, line: list[Stage]) -> None:
    """The stages' shapes as a small table, its first row at `top`."""
    table = {
        "channels $C$": [f"{s.shape[0]} + {s.lateral[0]}" if s.lateral else f"{s.shape[0]}" for s in line],
        "frames $T$": [f"{s.shape[1]}" for s in line],
        "pixels $H$ × $W$": [f"{s.shape[2]} × {s.shape[3]}" for s in line],
        "residual blocks": [f"{s.blocks}" if s.blocks else "" for s in line],
    }
    for row, (name, cells) in enumerate(table.items()):
        y = top - 0.115 * row
        label(axes, MARGIN, y, name, ha="left", color=PALE)
        for x, cell in zip(centres, cells, strict=False):
            label(axes, x, y, cell)


def laterals(axes: Axes, line: list[Stage], slow: list[Box], fast: list[Box], y: float) -> None:
    """Arrows from the fast pathway to what it adds to the slow one, whose stages are `line`; the shapes at `y`."""
    for stage, above, below in zip(line, slow, fast, strict=True):
        if stage.lateral:
            arrow(axes, (above.lateral, below.top), (above.lateral, above.bottom), tint(FAST, -0.25))
            text = "+ {} × {}\n× {} × {}".format(*stage.lateral)
            label(axes, above.lateral + 0.05, y, text, ha="left", va="center", color=tint(FAST, -0.4))


def logits(axes: Axes, start: float, x: float, y: float, name: float, shape: float) -> None:
    """A bar around (x, y), an arrow to it from `start`, and the heights of its name and of its shape."""
    axes.add_patch(Rectangle((x - 0.05, y - 0.2), 0.1, 0.4, fc="0.9", ec=INK, lw=0.5))
    arrow(axes, (start, y), (x - 0.05, y))
    heading(axes, x, name, "logits")
    label(axes, x, shape, "$K$ classes")


def channels(stage: Stage) -> list[int]:
    return [shape[0] for shape in (stage.shape, stage.lateral) if shape]


def extent(stage: Stage, unit: np.ndarray) -> float:
    """Inches from a box's left to its right; unit: inches for the root of a channel, the root of a pixel, a frame."""
    return unit[0] * sum(channels(stage)) ** 0.5 + unit[2] * stage.shape[1] * BACK[0]


def box(axes: Axes, x: float, y: float, stage: Stage, unit: np.ndarray, colours: list[Colour]) -> Box:
    """Draw a stage around (x, y), its own channels and then the lateral ones."""
    _, T, H, _ = stage.shape
    share = np.cumsum([0, *channels(stage)]) / sum(channels(stage))
    edges = share * unit[0] * sum(channels(stage)) ** 0.5
    high, back = unit[1] * H**0.5, unit[2] * T * BACK
    corner = np.array([x - (edges[-1] + back[0]) / 2, y - (high + back[1]) / 2])
    for left, right, colour in zip(edges[:-1], edges[1:], colours, strict=False):
        cuboid(axes, corner + np.array([left, 0]), (right - left, high), back, T, colour)
    top = corner[1] + high + back[1]
    return Box(corner[0], corner[0] + edges[-1] + back[0], corner[1], top, corner[0] + edges[-2:].mean())


def key(axes: Axes, y: float) -> None:
    """What the sides of a box mean."""
    corner, size, back = np.array([0.3, y - 0.16]), (0.2, 0.22), 0.2 * BACK
    cuboid(axes, corner, size, back, 5, (0.75, 0.75, 0.75))
    label(axes, corner[0] - 0.03, corner[1] + size[1] / 2, r"$\sqrt{H}$", ha="right", color=PALE)
    label(axes, corner[0] + size[0] / 2, corner[1] - 0.09, r"$\sqrt{C}$", color=PALE)
    label(axes, corner[0] + size[0] + back[0] / 2 + 0.03, corner[1] + back[1] / 2 - 0.03, "$T$", ha="left", color=PALE)


def convolution() -> Figure:
    """How a 3×3×3 kernel makes one output position; and what a full and a depthwise convolution do to channels."""
    axes = canvas(COLUMN, 2.62)
    blue, grey = PALETTE[0], (0.6, 0.6, 0.6)
    right, up, on = np.array([0.055, 0.032]), np.array([0, 0.098]), np.array([0.235, 0])  # by a pixel, a pixel, a frame
    pixels, frames, row, column, now = 6, 5, 1, 2, 2  # the kernel's first row and column, and its middle frame
    given, made = np.array([0.2, 1.57]), np.array([2.06, 1.57])

    heading(axes, MARGIN, 2.52, "a  One position of a 3 × 3 × 3 convolution", ha="left")
    inner = row * up + column * right
    for t in reversed(range(frames)):
        for start in (given, made):
            grid(axes, start + t * on, right, up, pixels, grey)
        if abs(t - now) <= 1:
            grid(axes, given + t * on + inner, right, up, 3, blue, -0.15 if t == now else 0.35)
    place = made + now * on + inner + right + up
    grid(axes, place, right, up, 1, PALETTE[1], 0)
    corners = [given + inner + 3 * i * right + 3 * j * up for i, j in itertools.product((0, 1), repeat=2)]
    ends = [place + i * right + j * up for i, j in itertools.product((0, 1), repeat=2)]
    edges = [[corner + (now - 1) * on, corner + (now + 1) * on] for corner in corners]
    rays = [[corner + (now + 1) * on, end] for corner, end in zip(corners, ends, strict=True)]
    axes.add_collection(LineCollection(edges, colors=[tint(blue, -0.4)], lw=0.7), autolim=False)
    axes.add_collection(LineCollection(rays, colors=[tint(PALETTE[1], -0.3)], lw=0.5), autolim=False)
    for start, name in ((given, "input"), (made, "output")):
        arrow(axes, start - [0, 0.07], start + frames * on - [0, 0.07], PALE)
        label(axes, *start + (frames + 0.25) * on - [0, 0.07], "$T$", color=PALE)
        label(axes, *start + frames / 2 * on - [0, 0.15], name, color=PALE)
    label(axes, given[0] - 0.07, given[1] + 3 * up[1], "$H$", color=PALE)
    label(axes, *given + 3 * right + 6 * up + [-0.04, 0.07], "$W$", color=PALE)

    levels = 0.98, 0.65, 0.32
    for left, title, out in (
        (0, "b  Full: 27 $CC$′ weights", "1 of $C$′ out"),
        (1.74, "c  Depthwise: 27 $C$ weights", "$C$ out"),
    ):
        heading(axes, left + MARGIN, 1.25, title, ha="left")
        for x, name in zip(left + np.array([0.22, 0.73, 1.34]), ("$C$ in", "$C$ kernels", out), strict=True):
            label(axes, x, 0.08, name, color=PALE)
        for y, colour in zip(levels, PALETTE, strict=False):
            channel(axes, left + 0.22, y, colour)
            arrow(axes, (left + 0.38, y), (left + 0.64, y))
            kernel(axes, left + 0.73, y, colour)
            if left:
                channel(axes, left + 1.34, y, colour)
                arrow(axes, (left + 0.82, y), (left + 1.18, y))
            else:
                arrow(axes, (0.82, y), (1.02, levels[1] + (y - levels[1]) * 0.1))
    axes.add_patch(Circle((1.07, levels[1]), 0.05, fc="w", ec=INK, lw=0.6))
    label(axes, 1.07, levels[1], "+", va="center")
    arrow(axes, (1.12, levels[1]), (1.2, levels[1]))
    channel(axes, 1.36, levels[1], grey)
    return axes.figure


def grid(
    axes: Axes, corner: np.ndarray, right: np.ndarray, up: np.ndarray, n: int, colour: Colour, shade: float = 0.85
) -> None:
    """n×n pixels from their lower left corner; one pixel to the right and one up are so far away."""
    face = [corner, corner + n * right, corner + n * (right + up), corner + n * up]
    axes.add_patch(Polygon(face, fc=tint(colour, shade), ec=tint(colour, -0.5), lw=0.4, joinstyle="round"))
    lines = [[corner + k * a, corner + k * a + n * b] for k in range(1, n) for a, b in ((right, up), (up, right))]
    axes.add_collection(LineCollection(lines, colors=[tint(colour, -0.3)], lw=0.25, zorder=1), autolim=False)


def channel(axes: Axes, x: float, y: float, colour: Colour) -> None:
    cuboid(axes, np.array([x - 0.15, y - 0.12]), (0.16, 0.16), 0.16 * BACK, 5, colour)


def kernel(axes: Axes, x: float, y: float, colour: Colour) -> None:
    corner = np.array([x - 0.09, y - 0.075])
    cuboid(axes, corner, (0.11, 0.11), 0.07 * BACK, 3, colour)
    grid(axes, corner, np.array([0.11 / 3, 0]), np.array([0, 0.11 / 3]), 3, colour, 0.15)


def sampling_over_epochs(
    frames: int, fps: float, T: int, input: Input, seed: int, epochs: int = 5, clip: int = 0
) -> Figure:
    """Which frames of a clip each epoch of a training sees, dynamic and static: a mark for each, at its time.

    clip: its place in the training set, which what is drawn for it depends on.
    Raises ValueError if the clip is too short and `input.short` is `error`.
    """
    figure = Figure(figsize=(COLUMN, 0.75 + 0.26 * epochs))
    panels = figure.subplots(2, sharex=True)
    for axes, rule, colour in zip(panels, ("dynamic", "static"), (PALETTE[0], PALETTE[3]), strict=True):
        seen = draws(rule, frames, fps, T, input, seed, epochs, clip)
        gap = min(np.diff(np.unique(seen[0])), default=frames) * 72 * COLUMN / frames  # points, or a little less
        axes.barh(range(1, epochs + 1), frames / fps, height=0.72, color="0.93", lw=0)
        for epoch, indices in enumerate(seen, 1):
            reach, times = (np.ptp(indices) + 1) / fps, (indices + 0.5) / fps
            axes.barh(epoch, reach, left=indices.min() / fps, height=0.72, color=tint(colour, 0.7), lw=0)
            axes.vlines(times, epoch - 0.36, epoch + 0.36, color=tint(colour, -0.2), lw=min(1.3, gap / 2))
        see = "1 epoch sees" if epochs == 1 else f"{epochs} epochs see"
        axes.set_title(f"{rule.capitalize()}: {see} {len(np.unique(seen))} of {frames} frames", loc="left", pad=3)
        axes.set(yticks=range(1, epochs + 1), ylim=(epochs + 0.55, 0.45), xlim=(0, frames / fps))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    panels[1].set_xlabel("Seconds in the clip")
    panels[1].tick_params(axis="x", length=2)
    figure.supylabel("Epoch", fontsize=8)
    return figure


def draws(rule: str, frames: int, fps: float, T: int, input: Input, seed: int, epochs: int, clip: int) -> np.ndarray:
    """(epochs, T) indices, as `video.dataset.Clips` draws them."""
    input = input.model_copy(update={"sampling": rule})
    span = input.span(frames, fps, T)
    generators = [np.random.default_rng([seed, epoch, clip]) for epoch in range(epochs)]
    return np.stack([sampling.draw(rule, frames, T, span, generator, input.short) for generator in generators])


def cuboid(axes: Axes, corner: np.ndarray, size: Point, back: np.ndarray, slices: int, colour: Colour) -> None:
    """A box in so many slices: its front's lower left corner, width and height, and the way back to its rear."""
    across, up = np.array([size[0], 0]), np.array([0, size[1]])
    for start, side, other, shade in (
        (corner, across, up, 0.15),
        (corner + up, across, back, 0.5),
        (corner + across, up, back, -0.1),
    ):
        face = [start, start + side, start + side + other, start + other]
        axes.add_patch(Polygon(face, fc=tint(colour, shade), ec=tint(colour, -0.5), lw=0.4, joinstyle="round"))
    joints = [
        [corner + up + step, corner + up + across + step, corner + across + step]
        for step in np.arange(1, slices)[:, None] / slices * back
    ]
    thin = min(0.25, 12 * np.hypot(*back) / slices)  # points, a sixth of a slice: many of them stay bright
    lines = LineCollection(joints, colors=[tint(colour, -0.5)], lw=thin, zorder=1, snap=False)
    axes.add_collection(lines, autolim=False)


def tint(colour: Colour, amount: float) -> np.ndarray:
    """The colour mixed with white, or below 0 with black."""
    return (1 - abs(amount)) * np.array(colour) + max(amount, 0)


def arrow(axes: Axes, start: Point, end: Point, colour: str | np.ndarray = INK, **style: str) -> None:
    style |= {"arrowstyle": "-|>,head_length=0.25,head_width=0.12", "mutation_scale": 10, "lw": 0.7, "color": colour}
    axes.annotate("", end, start, arrowprops=style | {"shrinkA": 1.5, "shrinkB": 1.5})


def label(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    axes.text(
        x,
        y,
        text,
        **{"ha": "center", "va": "center_baseline", "size": SMALL, "color": INK, "linespacing": 0.95} | style,
    )


def heading(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    label(axes, x, y, text, size=8, weight="bold", **style)


def canvas(width: float, height: float) -> Axes:
    """Empty axes whose unit is the inch."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")  # as an argument it is forgotten after the first savefig
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes
