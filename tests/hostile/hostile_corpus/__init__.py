"""Hostile and broken inputs, each with what a scan has to say of it; written when a test asks for them."""

from __future__ import annotations

from hostile_corpus import archives, compressed, images, places, tables
from hostile_corpus.making import Case

CASES: tuple[Case, ...] = (*archives.CASES, *compressed.CASES, *images.CASES, *tables.CASES, *places.CASES)
