"""Stage 7: train a clean model on what a scan has kept (paper, section 3.3.7)."""
