"""Make text from the data safe to show: `vbdguard.escaping`, for the modules beside this one."""

from __future__ import annotations

from vbdguard.escaping import printable

__all__ = ["printable"]
