"""How long a test waits for what is promised in seconds: the promise is that of a machine with idle cores."""

from __future__ import annotations

import os


def patience(seconds: float) -> float:
    """Return the seconds in which this machine, with what it has to do now, can be asked to do what takes `seconds`."""
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * max(1.0, 2 * waiting)
