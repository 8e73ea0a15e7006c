"""Guards between a training set and the training loop: only samples that a scan has seen and kept pass."""
