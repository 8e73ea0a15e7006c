"""A copy of a data set on disk without its poison, and a quarantine with the reasons."""
