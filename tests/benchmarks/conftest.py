"""The benchmarks are run from the repository and never installed, so their folder has to be made known."""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[2])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)
