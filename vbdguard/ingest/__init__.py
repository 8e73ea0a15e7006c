"""From a source to pixels, labels and digests: read, hash, decode safely, store."""
