"""Measurements of vbdguard; none of this is installed with it."""
