"""Variance-Based Defense, stages 1 to 6 (paper, section 3): tensors and settings in, small frozen results out."""
