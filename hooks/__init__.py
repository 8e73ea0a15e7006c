"""Hooks into training frameworks; installs as `vbdguard.hooks`."""
