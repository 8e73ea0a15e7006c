"""vbdguard: find backdoor poisoning in image-classification data before it is trained on."""

from __future__ import annotations

__version__ = "0.1.0"
