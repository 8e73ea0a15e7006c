"""What is told of a shard's structure; the cases themselves stand in test_tar.py and in the hostile corpus."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.sources.cutting import is_safe_name
from vbdguard.sources.tar_members import Span, TarFile
from vbdguard.sources.tar_notes import TarNotes

NAMES = st.text(st.sampled_from("a./\\:C\0\n é"), min_size=1, max_size=8)


def file(name: str) -> TarFile:
    return TarFile(name, 0, b"", Span(0, 0, 0))


@given(NAMES)
@settings(max_examples=300, deadline=None)
def test_quick_look_at_names_misses_none_that_leads_out(name: str) -> None:
    told = [note.reason for note in TarNotes("s").of_group("key", [file(name)])]
    assert told == ([] if is_safe_name(name) else ["unsafe-name"])


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_each_repetition_of_a_key_is_told_once(keys: list[str]) -> None:
    notes = TarNotes("s")
    told = [bool(notes.of_group(key, [file(f"{key}.jpg")])) for key in keys]
    assert told == [key in keys[:place] for place, key in enumerate(keys)]
