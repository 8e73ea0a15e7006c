"""The corpus is a package of its own: test modules in folders without `__init__.py` cannot import each other."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
