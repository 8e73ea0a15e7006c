"""The command line; installs as `vbdguard.cli`. Nothing else in the house prints."""
