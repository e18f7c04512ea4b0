"""motion: small clips of five actions that no single frame can tell apart.

    $ framebudget motion data/motion        (120 scenes × 5 actions; takes 40 seconds)

A *scene* is a background and a two-colored ellipse that moves in three periodic ways: in size, angle and place. Each
action runs one of them and holds the other two still:

    Approach, Recede                        it comes nearer out of the haze, or goes away, again and again
    SpinClockwise, SpinCounterclockwise     it turns, one way or the other
    Sway                                    it swings from side to side

The phase at which a motion starts, or is held, is uniform over its period. At any moment, size, angle and place have
the same distribution in all five actions: only change over time tells them apart. Each scene is rendered in every
action and is one group (`g01`, `g02`, …), so backgrounds and colors reveal nothing either.

Periods are 11 to 40 frames. 6 frames over 1.6 s are 7.8 frames apart: motions with a period below 15.6 look like slow
ones in the other direction (the wagon-wheel effect). 8 frames follow all but the fastest motions, 16 follow every one.
"""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from framebudget.console import new_file

MOVES = {  # direction of change in size, angle, place
    "Approach": (1, 0, 0), "Recede": (-1, 0, 0),
    "SpinClockwise": (0, 1, 0), "SpinCounterclockwise": (0, -1, 0),
    "Sway": (0, 0, 1),
}  # fmt: skip
ACTIONS = tuple(MOVES)
OPPOSITE = {"Approach": "Recede", "SpinClockwise": "SpinCounterclockwise"}  # what an action is backwards in time
OPPOSITE |= {back: there for there, back in OPPOSITE.items()}
PERIODS = 11, 40  # frames, the shortest and the longest
WIDTH, HEIGHT, FRAMES, FPS = 112, 84, 48, 25


@dataclass(frozen=True)
class Scene:
    """The random choices of one scene. Lengths in pixels, angles in radians, times in frames."""

    background: np.ndarray  # (H, W, 3) in 0..1
    light: np.ndarray  # (3,) in 0..1: the color turns from light to dark around the middle of the sprite,
    dark: np.ndarray  # which is lighter than the background on average
    aspect: float  # of the ellipse, short axis / long axis
    radius: float  # of the long axis, halfway between far and near
    zoom: float  # near size / far size
    place: tuple[float, float]  # the middle of the swing
    swing: float  # amplitude
    period: float
    phases: np.ndarray  # (3,) in 0..1: where size, angle and place start, or are held


def draw_scene(number: int) -> Scene:
    """The scene with this number, always the same."""
    rng = np.random.default_rng([1, number])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    background = np.zeros((HEIGHT, WIDTH, 3)) + rng.uniform(0.1, 0.3, 3)
    for _ in range(6):  # soft blobs
        center, width = rng.uniform((0, 0), (WIDTH, HEIGHT)), rng.uniform(12, 40)
        blob = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * width**2))
        background += blob[..., None] * rng.uniform(-0.1, 0.1, 3)
    return Scene(
        background=background.clip(0, 1),
        light=rng.uniform(0.8, 1, 3),
        dark=rng.uniform(0, 0.15, 3),
        aspect=rng.uniform(0.7, 1),
        radius=rng.uniform(26, 30),
        zoom=rng.uniform(2.2, 2.8),
        place=tuple(rng.uniform((WIDTH / 2 - 4, HEIGHT / 2 - 4), (WIDTH / 2 + 4, HEIGHT / 2 + 4))),
        swing=rng.uniform(20, 28),
        period=rng.uniform(*PERIODS),
        phases=rng.uniform(0, 1, 3),
    )


def period(group: str) -> float:
    """Frames of the clip that a motion of this scene (`g01`) takes to repeat itself."""
    return draw_scene(int(group.removeprefix("g"))).period


def pose(scene: Scene, action: str, t: float) -> tuple[float, float, float, float, float]:
    """(x, y, angle, radius, opacity) of the sprite at frame t."""
    size, angle, place = (scene.phases + np.array(MOVES[action]) * t / scene.period) % 1
    radius = scene.radius * scene.zoom ** (size - 0.5)
    x = scene.place[0] + scene.swing * np.sin(2 * np.pi * place)
    angle = 2 * np.pi * angle  # the y axis points down, so a growing angle turns clockwise
    return x, scene.place[1], angle, radius, 0.4 + 0.6 * size  # haze: the farther, the fainter


def render(scene: Scene, action: str) -> np.ndarray:
    """The clip, uint8 (T, H, W, 3)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(FRAMES):
        px, py, angle, radius, clear = pose(scene, action, t)
        cos, sin = np.cos(angle), np.sin(angle)
        u = (x - px) * cos + (y - py) * sin  # the sprite's own axes
        v = (y - py) * cos - (x - px) * sin
        reach = np.hypot(u, v / scene.aspect)
        inside = clear * (0.5 + radius - reach).clip(0, 1)[..., None]  # one pixel of antialiasing
        sweep = (np.arctan2(v, u) / (2 * np.pi) + 0.5)[..., None]
        sprite = sweep * scene.light + (1 - sweep) * scene.dark
        frames[t] = np.round(255 * (inside * sprite + (1 - inside) * scene.background))
    return frames


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Write uint8 frames (T, H, W, 3) as MPEG-4 in AVI, whole or not at all. Equal frames give equal bytes."""
    options = {"flags": "+bitexact", "qmin": "3", "qmax": "3", "threads": "1"}
    with new_file(path) as partial, av.open(partial, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())


def write_motion(folder: Path, scenes: int) -> None:
    """Render `scenes` scenes in every action to folder/<Action>/v_<Action>_gNN_c01.avi."""
    for number in tqdm(range(1, scenes + 1), desc="render", unit="scene", disable=None):
        scene = draw_scene(number)
        for action in ACTIONS:
            write_clip(folder / action / f"v_{action}_g{number:02d}_c01.avi", render(scene, action))
