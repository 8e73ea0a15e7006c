"""Tar archives: damaged, lying, or read differently by different readers."""

from __future__ import annotations

import io
import tarfile

from hostile_corpus.making import BLOCK, Case, case, edited, members, png, put, sample, shard, tar

BODY = tar([*sample("a", 1), *sample("b", 2)])
PNG_BLOCKS = -(-len(png(1)) // BLOCK) * BLOCK
SECOND = BLOCK + PNG_BLOCKS
"""Where the second member begins."""
END = 2 * (SECOND + 2 * BLOCK)
"""Where the members end."""
PICKLE = b"cposix\nsystem\n(S'touch canary'\ntR."


def other(kind: bytes, *, size: int = 0, **fields: object) -> bytes:
    """A whole sample, a member of another kind, and a whole sample."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in sample("a", 1):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("b.png")
        info.type, info.linkname = kind, "a.png"
        archive.addfile(info)
    data = buffer.getvalue()
    at = SECOND + 2 * BLOCK
    return edited(data, put(124, b"%011o\0" % size), at) if size else data


def pax(records: dict[str, str], *, is_global: bool = False, size: int = 3) -> bytes:
    buffer = io.BytesIO()
    form = {"pax_headers": records} if is_global else {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, **form) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("a.png")
        info.size = size
        if not is_global:
            info.pax_headers = records
        archive.addfile(info, io.BytesIO(bytes(size)))
    return buffer.getvalue()


LONG = tar([("n" * 120, b"1")], tarfile.GNU_FORMAT)
SIZED = pax({"size": "3"})
PAX_DATA = SIZED.index(b"size=") - 3

CUTS = {
    "nothing": 0,
    "inside-first-header": 100,
    "inside-image": BLOCK + 60,
    "behind-image": SECOND,
    "inside-second-header": SECOND + 257,
    "between-samples": SECOND + 2 * BLOCK,
    "before-end-blocks": END,
    "behind-one-end-block": END + BLOCK,
}

HEADERS = {
    "negative-size": put(124, b"\xff" * 12),
    "size-of-letters": put(124, b"0o17_7+1\0\0\0\0"),
    "size-of-exabytes": put(124, b"\x80" + b"\x7f" * 11),
    "size-beyond-the-end": put(124, b"00077777777\0"),
    "huge-long-name": lambda block: (put(156, b"L")(block), put(124, b"77777777777\0")(block)),
    "huge-pax-header": lambda block: (put(156, b"x")(block), put(124, b"77777777777\0")(block)),
    "pax-header-of-the-image": put(156, b"x"),
    "link-with-content": put(156, b"1"),
    "symlink-with-content": put(156, b"2"),
    "folder-with-content": lambda block: (put(156, b"\0")(block), put(0, b"a.png/")(block)),
    "sparse-map-without-end": lambda block: (put(156, b"S")(block), put(482, b"\1")(block)),
}

DAMAGED = [
    *(case(f"tar-cut-{name}", shard(BODY[:cut]), "truncated") for name, cut in CUTS.items()),
    *(
        case(f"tar-header-{name}", shard(edited(BODY, change)), "corrupt", "truncated", "sparse-file")
        for name, change in HEADERS.items()
    ),
    case("tar-garbage", shard(b"no tar at all " * 100), "corrupt"),
    case("tar-zeros", shard(bytes(50_000)), "corrupt"),
    case("tar-second-archive", shard(BODY + BODY), "corrupt"),
    case("tar-trailing-bytes", shard(BODY + b"hidden"), "corrupt"),
    case("tar-trailing-byte-far-behind", shard(BODY + bytes(3 << 20) + b"x"), "corrupt"),
    case("tar-zero-block-inside", shard(BODY[:SECOND] + bytes(BLOCK) + BODY[SECOND:]), "corrupt"),
    case("tar-zero-blocks-inside", shard(BODY[:SECOND] + bytes(2 * BLOCK) + BODY[SECOND:]), "corrupt"),
    case(
        "tar-that-is-parquet-too",
        shard(tar([("PAR1", b""), *sample("a", 1)]) + b"PAR1"),
        "ambiguous-kind",
        "SourceError",
    ),
    case("tar-that-is-arrow-too", shard(tar([("ARROW1", b""), *sample("a", 1)])), "ambiguous-kind"),
    case("tar-checksum", shard(BODY[:SECOND] + b"X" + BODY[SECOND + 1 :]), "corrupt"),
]

EXTENDED = [
    case("tar-global-path", shard(pax({"path": "x"}, is_global=True)), "corrupt"),
    case("tar-global-size", shard(pax({"size": "1"}, is_global=True)), "corrupt"),
    case("tar-global-sparse", shard(pax({"GNU.sparse.name": "x"}, is_global=True)), "corrupt"),
    case("tar-pax-size-before-long-name", shard(SIZED[: 2 * BLOCK] + LONG), "corrupt"),
    case("tar-two-names", shard(LONG[: 2 * BLOCK] + tar([("p" * 120, b"1")])), "corrupt"),
    case("tar-two-long-names", shard(LONG[: 2 * BLOCK] + LONG), "corrupt"),
    case("tar-long-name-of-nothing", shard(LONG[: 2 * BLOCK] + bytes(2 * BLOCK)), "corrupt"),
    case("tar-name-of-5000", shard(tar([("n" * 5000 + ".png", b"1")])), "corrupt"),
    case("tar-pax-size-negative", shard(pax({"size": "-5"})), "corrupt"),
    case("tar-pax-size-endless", shard(pax({"size": "9" * 400})), "corrupt"),
    case("tar-pax-size-of-letters", shard(pax({"size": "0x10"})), "corrupt"),
    case("tar-pax-size-exabytes", shard(pax({"size": "9" * 18})), "truncated"),
    case("tar-pax-record-length-lies", shard(SIZED[:PAX_DATA] + b"99" + SIZED[PAX_DATA + 2 :]), "corrupt"),
    case("tar-pax-record-length-zero", shard(SIZED[:PAX_DATA] + b"00" + SIZED[PAX_DATA + 2 :]), "corrupt"),
    case("tar-pax-record-without-line-end", shard(SIZED.replace(b"size=3\n", b"size=3x")), "corrupt"),
    case("tar-pax-record-named-with-nul", shard(pax({"path\0x": "b.png"})), "corrupt"),
    case("tar-pax-record-without-name", shard(pax({"": "a", "path": "b.png"})), "corrupt"),
    case("tar-pax-name-with-nul", shard(tar([*sample("a", 1), ("x\0é.png", b"1")])), "no-label", "unsafe-name"),
]

OTHERS = [
    case("tar-hard-link", shard(other(tarfile.LNKTYPE)), "link"),
    case("tar-symbolic-link", shard(other(tarfile.SYMTYPE)), "link"),
    case("tar-character-device", shard(other(tarfile.CHRTYPE)), "device"),
    case("tar-block-device", shard(other(tarfile.BLKTYPE)), "device"),
    case("tar-pipe", shard(other(tarfile.FIFOTYPE)), "pipe"),
    case("tar-sparse", shard(other(tarfile.GNUTYPE_SPARSE)), "sparse-file"),
    case("tar-pax-sparse", shard(pax({"GNU.sparse.major": "1", "GNU.sparse.name": "a.png"})), "sparse-file"),
    case("tar-unknown-kind", shard(other(b"Z")), "unknown-member"),
    case("tar-volume-label", shard(other(b"V")), "unknown-member"),
    case("tar-link-that-states-content", shard(other(tarfile.LNKTYPE, size=600)), "corrupt"),
]

NAMES = [
    *(
        case(f"tar-name-{number}", members(*sample(name, 3)), "unsafe-name", "hidden-image")
        for number, name in enumerate(["../up", "/abs", "a/../../up", "C:/x", "\\x", "a\\..\\..\\x"])
    ),
    *(
        case(f"tar-hidden-{number}", members((name, png(3))), "hidden-image")
        for number, name in enumerate(["dir/.hidden.png", "__meta__/a.png", ".png", "x.seg.png"])
    ),
    case("tar-repeated-key", members(*sample("b", 3), *sample("a", 4)), "repeated-key"),
    case(
        "tar-split-key",
        members(("b.png", png(3)), *sample("c", 4), ("b.cls", b"1")),
        "no-label",
        "no-image",
        "repeated-key",
    ),
    case("tar-field-in-two-cases", members(*sample("b", 3), ("b.PNG", png(4))), "duplicate-member"),
    case("tar-field-twice", members(*sample("b", 3), ("b.png", png(4))), "duplicate-member"),
    case("tar-label-twice", members(*sample("b", 3), ("b.cls", b"1")), "duplicate-member"),
    case("tar-two-images", members(*sample("b", 3), ("b.jpg", png(4))), "ambiguous-image"),
    case("tar-control-characters", members(("\x1b[2J\x07.png", b"no image"), ("\x1b[2J\x07.cls", b"0")), "undecodable"),
    case("tar-markup", members(("[bold]x[/bold].png", b"no image"), ("[bold]x[/bold].cls", b"0")), "undecodable"),
    case("tar-right-to-left", members(("\u202egnp.png", b"no image"), ("\u202egnp.cls", b"0")), "undecodable"),
    case("tar-members-of-one-key", shard(tar([(f"a.{n}", b"") for n in range(1200)])), "too-many-members"),
    case("tar-ten-thousand-faults", shard(tar([(f"{n}.png", b"") for n in range(10_050)])), "too-many-faults"),
]


def labelled(name: str, content: bytes, *expected: str) -> Case:
    return case(f"label-{name}", members(("b.png", png(3)), (f"b.{name.split('-')[0]}", content)), *expected)


LABELS = [
    case("label-none", members(("b.png", png(3))), "no-label"),
    case("label-without-image", members(("b.cls", b"1")), "no-image"),
    case("label-pickled-only", members(("b.png", png(3)), ("b.pkl", PICKLE), ("b.pyd", PICKLE)), "no-label"),
    labelled("cls-name", b"cat", "bad-label"),
    labelled("cls-negative", b"-1", "bad-label"),
    labelled("cls-empty", b"", "bad-label"),
    labelled("cls-underscore", b"1_0", "bad-label"),
    labelled("cls-arabic-digits", "١".encode(), "bad-label"),
    labelled("cls-endless", b"9" * 5000, "bad-label"),
    labelled("cls-megabytes", b"1" * (2 << 20), "too-large"),
    labelled("cls-pickled", PICKLE, "bad-label"),
    labelled("cls-nul", b"1\0", "bad-label"),
    labelled("json-deep", b"[" * 200_000, "bad-label"),
    labelled("json-cut", b'{"label": ', "bad-label"),
    labelled("json-no-utf8", b'{"label": "\xff\xfe"}', "bad-label"),
    labelled("json-endless-number", b'{"label": ' + b"9" * 10_000 + b"}", "bad-label"),
    labelled("json-infinite", b'{"label": 1e999}', "bad-label"),
    labelled("json-list", b'{"label": [1]}', "bad-label"),
    labelled("json-null", b'{"label": null}', "no-label"),
    labelled("json-boolean", b'{"label": true}', "bad-label"),
    labelled("json-beyond-64-bits", b'{"label": 9223372036854775808}', "bad-label"),
    labelled("json-name-of-2000", b'{"label": "%s"}' % (b"x" * 2000), "bad-label"),
    labelled("json-megabytes", b" " * (2 << 20) + b'{"label": 1}', "too-large"),
]

CASES = (*DAMAGED, *EXTENDED, *OTHERS, *NAMES, *LABELS)
