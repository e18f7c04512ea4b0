"""Clips whose frame rate varies, such as those of phones and screen recorders: which frame is on screen when.

Samplers count ticks of a clip's mean rate. Where the rate is constant, tick k shows frame k.
"""

from collections.abc import Sequence

import numpy as np


def mean_rate(times: Sequence[float | None]) -> float | None:
    """Frames per second, from the time of each frame; None if a time is missing, or they do not increase."""
    if len(times) < 2 or None in times:
        return None
    gaps = np.diff(np.array(times, float))
    return (len(times) - 1) / gaps.sum() if (gaps > 0).all() else None


def shown(times: Sequence[float | None]) -> list[int] | None:
    """The frame that is on the screen at each tick, one tick for every frame; None if that is frame k at tick k.

    times: in seconds, from the container, which rounds them: a frame may come half a tick late.
    """
    if not (rate := mean_rate(times)):
        return None
    seconds_N, ticks_N = np.array(times, float) - float(times[0] or 0), np.arange(len(times))
    shown_N = np.searchsorted(seconds_N, (ticks_N + 0.5) / rate, side="right") - 1
    return None if (shown_N == ticks_N).all() else shown_N.tolist()


def at(shown: list[int] | None, ticks: np.ndarray) -> np.ndarray:
    """The frames at these ticks."""
    return ticks if shown is None else np.array(shown)[ticks]
