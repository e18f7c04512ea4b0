"""Illustrations of the networks and of a 3-D convolution."""

from collections import namedtuple
from collections.abc import Iterable
from itertools import pairwise, product, starmap

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from matplotlib.transforms import Bbox
from torch import Tensor, nn

from framebudget.models import NETWORKS
from framebudget.models.slowfast import SlowFast, slow_frames
from framebudget.report.plots import COLUMN, PAGE, PALETTE, Color, style_of, tint

TRUNK = ["stem", "res2", "res3", "res4", "res5"]  # the papers' names for the first five blocks
FAST, GRAY, INK, PALE = PALETTE[2], (0.6, 0.6, 0.6), "0.2", "0.45"  # FAST: SlowFast's fast pathway
BACK = np.array([0.83, 0.55])  # an inch of depth, as drawn
MARGIN, TABLE = 0.05, 0.95  # inches from the left: row titles, first column
HEADING = {"size": 8, "weight": "bold"}


# A stage of a network: shape of its output, number of residual blocks, channels that the fast pathway adds
Stage = namedtuple("Stage", "name C T H W blocks lateral", defaults=(0, 0))


@torch.no_grad()
def stages(model: str, T: int, crop: int) -> tuple[list[list[Stage]], Stage | None]:
    """A network's pathways for T frames of crop×crop pixels, clip first, and the stage that joins them if two."""
    with torch.device("meta"):  # tensors without storage
        network, clip = NETWORKS[model].build(2).eval(), torch.empty(1, 3, T, crop, crop)
        trunk = dict(zip(TRUNK, network.blocks[:-1], strict=False))
        if joined := isinstance(network, SlowFast):
            slow, fast = ({name: block.multipathway_blocks[p] for name, block in trunk.items()} for p in (0, 1))
            slow["pool"], fast["pool"] = network.blocks[5].pool
            lines = [(clip[:, :, slow_frames(T)], slow), (clip, fast)]
            fusions = [trunk[name].multipathway_fusion.conv_fast_to_slow for name in TRUNK[:-1]]
            laterals = {module: fusion.out_channels for module, fusion in zip(slow.values(), fusions, strict=False)}
        else:
            pool = getattr(network.blocks[-1], "pool", None)  # in the head of X3D
            head = {"conv5": pool.pre_conv, "pool5": pool.pool, "fc1": pool.post_conv} if pool else {}
            lines, laterals = [(clip, trunk | head)], {}
        found = outputs(network, [module for _, modules in lines for module in modules.values()], clip)

    def stage(name: str, module: nn.Module) -> Stage:
        return Stage(name, *found[module].shape[1:], len(getattr(module, "res_blocks", [])), laterals.get(module, 0))

    pathways = [[Stage("clip", *x.shape[1:]), *starmap(stage, modules.items())] for x, modules in lines]
    return pathways, pathways[0][-1]._replace(name="concat", lateral=pathways[1][-1].C) if joined else None


def outputs(network: nn.Module, modules: Iterable[nn.Module], clips_BCTHW: Tensor) -> dict[nn.Module, Tensor]:
    found: dict[nn.Module, Tensor] = {}
    hooks = [module.register_forward_hook(lambda of, _, output: found.update({of: output})) for module in modules]
    network(clips_BCTHW)
    for hook in hooks:
        hook.remove()
    return found


def network(model: str, T: int, crop: int) -> Figure:
    """The stages of a network, for T frames of crop×crop pixels, as boxes and as a table of their shapes.

    A box is √C wide and √H high and has a slice for every frame. A strip marks what the lateral connection adds.
    """
    pathways, joined = stages(model, T, crop)
    columns = [*zip(*pathways, strict=True), *([(joined,)] if joined else [])]
    most = max(stage.C + stage.lateral for column in columns for stage in column)
    unit = np.array([0.62 / most**0.5, 0.9 / crop**0.5, min(0.04, 0.24 / T)])  # inches: √1 channel, √1 pixel, 1 frame
    extents = [[unit[0] * (s.C + s.lateral) ** 0.5 + unit[2] * s.T * BACK[0] for s in column] for column in columns]
    widths = [max(0.5, *column) for column in extents] + [0.45]
    gap = (PAGE - TABLE - MARGIN - sum(widths)) / (len(widths) - 1)
    centers = TABLE + np.cumsum(widths) - np.array(widths) / 2 + gap * np.arange(len(widths))

    height, middles, tops = (3.43, [2.13, 1.0], [2.97, 0.42]) if joined else (2.07, [1.12], [0.44])
    axes, colors, middle = canvas(PAGE, height), [style_of(model)["color"], FAST], sum(middles) / len(middles)
    title = f"{NETWORKS[model].name}, {T} frame{'s' * (T > 1)} of {crop} × {crop} pixels"
    label(axes, MARGIN, height - 0.11, title, ha="left", size=9)
    for x, stage in zip(centers, pathways[0], strict=False):
        label(axes, x, height - 0.31, stage.name, **HEADING)
    rows = []
    for line, y, top, color in zip(pathways, middles, tops, colors, strict=False):
        rows.append([box(axes, x, y, stage, unit, [color, FAST]) for x, stage in zip(centers, line, strict=False)])
        for (before, _), (after, _) in pairwise(rows[-1]):
            arrow(axes, (before.x1, y), (after.x0, y))
        table(axes, top, centers, line)
    key(axes, middle)
    if not joined:
        logits(axes, rows[0][-1][0].x1, centers[-1], middle, height - 0.31, tops[0])
        return axes.figure

    for stage, (slow, x), (fast, _) in zip(pathways[0], *rows, strict=True):
        if stage.lateral:
            arrow(axes, (x, fast.y1), (x, slow.y0), tint(FAST, -0.25))
            text, color = f"+ {stage.lateral} × {stage.T}\n× {stage.H} × {stage.W}", tint(FAST, -0.4)
            label(axes, x + 0.05, middle, text, ha="left", va="center", color=color)
    for name, y in zip(("Slow", "Fast"), middles, strict=True):
        label(axes, MARGIN, y, f"{name} pathway", ha="left", **HEADING)
    x, (both, _) = centers[-2], box(axes, centers[-2], middle, joined, unit, colors)
    for row, y, side in zip(rows, middles, (both.y1, both.y0), strict=True):
        arrow(axes, (row[-1][0].x1, y), (x, side), connectionstyle="angle,angleA=0,angleB=90,rad=4")
    label(axes, x + 0.06, both.y1 + 0.1, joined.name, ha="left", **HEADING)
    text = f"{joined.C + joined.lateral} × {joined.T}\n× {joined.H} × {joined.W}"
    label(axes, x + 0.06, both.y0 - 0.14, text, ha="left")
    logits(axes, both.x1, centers[-1], middle, middle + 0.29, middle - 0.29)
    return axes.figure


def box(axes: Axes, x: float, y: float, stage: Stage, unit: np.ndarray, colors: list[Color]) -> tuple[Bbox, float]:
    """Draw a stage around (x, y), lateral channels in the second color. Returns its place and their middle x."""
    channels = np.array([0, stage.C, stage.C + stage.lateral])
    edges = channels / channels[-1] * unit[0] * channels[-1] ** 0.5
    size, back = np.array([edges[-1], unit[1] * stage.H**0.5]), unit[2] * stage.T * BACK
    corner = np.array([x, y]) - (size + back) / 2
    for (start, end), color in zip(pairwise(edges), colors, strict=True):
        if end > start:
            cuboid(axes, corner + np.array([start, 0]), end - start, size[1], back, stage.T, color)
    return Bbox([corner, corner + size + back]), corner[0] + edges[1:].mean()


def table(axes: Axes, top: float, centers: np.ndarray, line: list[Stage]) -> None:
    """The shapes of the stages, the first row at `top`."""
    rows = {
        "channels $C$": [f"{stage.C} + {stage.lateral}" if stage.lateral else stage.C for stage in line],
        "frames $T$": [stage.T for stage in line],
        "pixels $H$ × $W$": [f"{stage.H} × {stage.W}" for stage in line],
        "residual blocks": [stage.blocks or "" for stage in line],
    }
    for row, (name, cells) in enumerate(rows.items()):
        label(axes, MARGIN, top - 0.115 * row, name, ha="left", color=PALE)
        for x, cell in zip(centers, cells, strict=False):
            label(axes, x, top - 0.115 * row, f"{cell}")


def key(axes: Axes, y: float) -> None:
    """A gray box that names its sides."""
    x, y, back = 0.3, y - 0.16, 0.2 * BACK
    cuboid(axes, np.array([x, y]), 0.2, 0.22, back, 5, (0.75, 0.75, 0.75))
    label(axes, x - 0.03, y + 0.11, r"$\sqrt{H}$", ha="right", color=PALE)
    label(axes, x + 0.1, y - 0.09, r"$\sqrt{C}$", color=PALE)
    label(axes, x + 0.2 + back[0] / 2 + 0.03, y + back[1] / 2 - 0.03, "$T$", ha="left", color=PALE)


def logits(axes: Axes, start: float, x: float, y: float, name: float, classes: float) -> None:
    """A bar around (x, y) and an arrow to it from `start`. name, classes: the heights of its two labels."""
    axes.add_patch(Rectangle((x - 0.05, y - 0.2), 0.1, 0.4, fc="0.9", ec=INK, lw=0.5))
    arrow(axes, (start, y), (x - 0.05, y))
    label(axes, x, name, "logits", **HEADING)
    label(axes, x, classes, "$K$ classes")


def convolution() -> Figure:
    """How a 3×3×3 kernel computes one output position; how full and depthwise convolutions connect channels."""
    axes, levels, channel = canvas(COLUMN, 2.62), (0.98, 0.65, 0.32), (0.16, 0.16, 0.16 * BACK, 5)
    label(axes, MARGIN, 2.52, "a  One position of a 3 × 3 × 3 convolution", ha="left", **HEADING)
    one_position(axes)
    full, depthwise = "b  Full: 27 $CC$′ weights", "c  Depthwise: 27 $C$ weights"
    for left, title, out in ((0, full, "1 of $C$′ out"), (1.74, depthwise, "$C$ out")):
        label(axes, left + MARGIN, 1.25, title, ha="left", **HEADING)
        for x, name in ((0.22, "$C$ in"), (0.73, "$C$ kernels"), (1.34, out)):
            label(axes, left + x, 0.08, name, color=PALE)
        for y, color in zip(levels, PALETTE, strict=False):
            cuboid(axes, np.array([left + 0.22 - 0.15, y - 0.12]), *channel, color)
            arrow(axes, (left + 0.38, y), (left + 0.64, y))
            corner = np.array([left + 0.73 - 0.09, y - 0.075])  # of the kernel
            cuboid(axes, corner, 0.11, 0.11, 0.07 * BACK, 3, color)
            grid(axes, corner, np.array([0.11 / 3, 0]), np.array([0, 0.11 / 3]), 3, color, 0.15)
            if left:
                cuboid(axes, np.array([left + 1.34 - 0.15, y - 0.12]), *channel, color)
            arrow(axes, (left + 0.82, y), (left + 1.18, y) if left else (1.02, levels[1] + (y - levels[1]) * 0.1))
    axes.add_patch(Circle((1.07, levels[1]), 0.05, fc="w", ec=INK, lw=0.6))
    label(axes, 1.07, levels[1], "+", va="center")
    arrow(axes, (1.12, levels[1]), (1.2, levels[1]))
    cuboid(axes, np.array([1.36 - 0.15, levels[1] - 0.12]), *channel, GRAY)
    return axes.figure


def one_position(axes: Axes) -> None:
    """5 frames of 6×6 pixels: those under the kernel in blue, the resulting position in orange."""
    right, up, on = np.array([0.055, 0.032]), np.array([0, 0.098]), np.array([0.235, 0])  # by a pixel, a pixel, a frame
    source, target, (blue, orange) = np.array([0.2, 1.57]), np.array([2.06, 1.57]), PALETTE[:2]
    frames, now, first = 5, 2, up + 2 * right  # the kernel's middle frame, and its first pixel
    for t in reversed(range(frames)):
        for start in (source, target):
            grid(axes, start + t * on, right, up, 6, GRAY, 0.85)
        if abs(t - now) <= 1:
            grid(axes, source + t * on + first, right, up, 3, blue, -0.15 if t == now else 0.35)
    made = target + now * on + first + right + up
    grid(axes, made, right, up, 1, orange, 0)
    corners = [(i * right, j * up) for i, j in product((0, 1), repeat=2)]
    near, far = ([source + t * on + first + 3 * (x + y) for x, y in corners] for t in (now - 1, now + 1))
    ends = [made + x + y for x, y in corners]
    axes.add_collection(LineCollection([*zip(near, far, strict=True)], colors=[tint(blue, -0.4)], lw=0.7))
    axes.add_collection(LineCollection([*zip(far, ends, strict=True)], colors=[tint(orange, -0.3)], lw=0.5))
    for start, name in ((source, "input"), (target, "output")):
        arrow(axes, start - [0, 0.07], start + frames * on - [0, 0.07], PALE)
        label(axes, *start + (frames + 0.25) * on - [0, 0.07], "$T$", color=PALE)
        label(axes, *start + frames / 2 * on - [0, 0.15], name, color=PALE)
    label(axes, source[0] - 0.07, source[1] + 3 * up[1], "$H$", color=PALE)
    label(axes, *source + 3 * right + 6 * up + [-0.04, 0.07], "$W$", color=PALE)


def cuboid(axes: Axes, corner: np.ndarray, width: float, height: float, back: np.ndarray, T: int, color: Color) -> None:
    """A box of T slices from the lower left corner of its front. `back` leads to its rear."""
    right, up = np.array([width, 0]), np.array([0, height])
    face(axes, corner, right, up, color, 0.15)
    face(axes, corner + up, right, back, color, 0.5)
    face(axes, corner + right, up, back, color, -0.1)
    steps = np.arange(1, T)[:, None] / T * back
    joints = [[corner + up + step, corner + up + right + step, corner + right + step] for step in steps]
    thin = min(0.25, 12 * np.hypot(*back) / T)  # points, a sixth of a slice, or many slices look dark
    axes.add_collection(LineCollection(joints, colors=[tint(color, -0.5)], lw=thin, zorder=1, snap=False))


def grid(axes: Axes, corner: np.ndarray, right: np.ndarray, up: np.ndarray, n: int, color: Color, shade: float) -> None:
    """n×n pixels from their lower left corner. `right` and `up` lead from one to the next."""
    face(axes, corner, n * right, n * up, color, shade)
    lines = [[corner + k * a, corner + k * a + n * b] for k in range(1, n) for a, b in ((right, up), (up, right))]
    axes.add_collection(LineCollection(lines, colors=[tint(color, -0.3)], lw=0.25, zorder=1))


def face(axes: Axes, corner: np.ndarray, right: np.ndarray, up: np.ndarray, color: Color, shade: float) -> None:
    """A parallelogram in a tint of the color."""
    corners, edge = [corner, corner + right, corner + right + up, corner + up], tint(color, -0.5)
    axes.add_patch(Polygon(corners, fc=tint(color, shade), ec=edge, lw=0.4, joinstyle="round"))


def arrow(axes: Axes, start: np.ndarray, end: np.ndarray, color: str | np.ndarray = INK, **style: str) -> None:
    style |= {"arrowstyle": "-|>,head_length=0.25,head_width=0.12", "mutation_scale": 10, "lw": 0.7, "color": color}
    axes.annotate("", end, start, arrowprops=style | {"shrinkA": 1.5, "shrinkB": 1.5})


def label(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    default = {"ha": "center", "va": "center_baseline", "size": 7, "color": INK, "linespacing": 0.95}
    axes.text(x, y, text, **default | style)


def canvas(width: float, height: float) -> Axes:
    """Empty axes whose unit is the inch."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")  # as an argument, it is lost after the first savefig
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes
