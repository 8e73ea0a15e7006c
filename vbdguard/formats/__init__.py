"""Machine-readable and shareable forms of a scan report beside its JSON."""
