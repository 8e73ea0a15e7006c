"""The page: it needs nothing from outside, runs nothing from the data, and shows what there is to show."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vbdguard.findings import findings_of
from vbdguard.formats.rendering import Extras, render
from vbdguard.ingest.reader import ingest
from vbdguard.ingest.stored_images import StoredImages, find_stored_images
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

from .conftest import EVIL

Make = Callable[..., ScanReport]


class Page(HTMLParser):
    """What a browser would see of a page: elements with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.code: dict[str, str] = {}
        self._within: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag if tag in ("style", "script") else None

    def handle_endtag(self, tag: str) -> None:
        self._within = None

    def handle_data(self, data: str) -> None:
        if self._within:
            self.code[self._within] = self.code.get(self._within, "") + data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def stored(
    tmp_path: Path, report_flagging: Callable[..., ScanReport], make_trigger: Any
) -> tuple[ScanReport, StoredImages]:
    """A set of three classes in which 12 samples of class 1 carry a red box, its report and its store."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (90, 32, 32, 3), dtype=np.uint8)
    pixels[[3 * n + 1 for n in range(12)], 28:31, 28:31] = (250, 20, 20)
    write_shards(
        (RawSample(f"s{n:02d}", image, n % 3) for n, image in enumerate(pixels)), tmp_path / "d", per_shard=100
    )
    keys = {f"train-000000.tar/s{n:02d}": None for n in (3 * n + 1 for n in range(12))}
    report = report_flagging(str(tmp_path / "d"), keys)
    classes = tuple(
        replace(entry, trigger=make_trigger(), p_value=1e-9, kept_scores=(18, *[0] * 19)) if entry.poisoned else entry
        for entry in report.classes
    )
    report = replace(report, classes=classes)
    ingest(str(tmp_path / "d"), store_dir=tmp_path / "store")
    images = find_stored_images(report, tmp_path / "store")
    assert images is not None
    return report, images


def page_of(report: ScanReport, extras: Extras | None = None) -> Page:
    return Page(render(report, "html", extras))


def decoded(source: str | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert source is not None
    data = base64.b64decode(source.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("clean", "Clean"),
        ("poisoned", "Poisoned"),
        ("incomplete", "Incomplete"),
        ("poisoned_and_incomplete", "Poisoned"),
    ],
)
def test_the_verdict_is_the_heading_and_the_title(name: str, verdict: str, request: pytest.FixtureRequest) -> None:
    text = render(request.getfixturevalue(name), "html")
    assert f"<title>{verdict}: vbdguard report</title>" in text
    assert f"<h1>{verdict}</h1>" in text
    assert ("Could not be read" in text) == ("incomplete" in name)


def test_the_page_asks_nobody_for_anything(any_report: ScanReport) -> None:
    page = page_of(any_report)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/webp;base64,"))
    assert "url(" not in page.code["style"]
    assert "@import" not in page.code["style"]
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}


def test_the_policy_lets_the_pages_own_style_and_script_run_and_nothing_else(evil: ScanReport) -> None:
    page = page_of(evil)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.code[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
        assert len(page.all(name)) == 1
    inline = [
        name for _, attributes in page.elements for name in attributes if name == "style" or name.startswith("on")
    ]
    assert inline == []


def test_hostile_names_are_text(evil: ScanReport, poisoned_and_incomplete: ScanReport) -> None:
    page, tame = page_of(evil), page_of(poisoned_and_incomplete)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in tame.elements}
    assert "<script>alert(1)</script>" in page.text
    assert EVIL not in page.text  # control characters are spelled out
    assert r"\x1b[31m" in page.text


def test_every_picture_has_words_and_every_link_a_target(stored: tuple[ScanReport, StoredImages]) -> None:
    report, images = stored
    page = page_of(report, Extras(images=images))
    assert all(image.get("alt") for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert (link["href"] or "").removeprefix("#") in ids


def test_the_gallery_shows_the_flagged_samples_beside_kept_ones(stored: tuple[ScanReport, StoredImages]) -> None:
    report, images = stored
    page = page_of(report, Extras(images=images))
    shown = {image["alt"] or "": image["src"] for image in page.all("img")}
    flagged = {alt: source for alt, source in shown.items() if alt.startswith("flagged sample ")}
    kept = {alt: source for alt, source in shown.items() if alt.startswith("kept sample ")}
    assert len(flagged) == len(kept) == 10
    assert all((decoded(source)[28:31, 28:31] == (250, 20, 20)).all() for source in flagged.values())
    assert not any((decoded(source)[28:31, 28:31] == (250, 20, 20)).all() for source in kept.values())
    keys = {sample.key for sample in report.flagged}
    assert {alt.removeprefix("flagged sample ") for alt in flagged} <= keys
    assert not {alt.removeprefix("kept sample ") for alt in kept} & keys


def test_the_trigger_is_outlined(stored: tuple[ScanReport, StoredImages]) -> None:
    report, images = stored
    boxes = [
        (one["x"], one["y"], one["width"], one["height"]) for one in page_of(report, Extras(images=images)).all("rect")
    ]
    assert boxes.count(("28", "28", "3", "3")) == 20 + 3  # the gallery, the pattern in its place, difference, variance


def test_difference_and_variance_point_at_the_trigger(stored: tuple[ScanReport, StoredImages]) -> None:
    report, images = stored
    sources = {image["alt"] or "": image["src"] for image in page_of(report, Extras(images=images)).all("img")}
    difference = next(
        decoded(source) for alt, source in sources.items() if alt.startswith("difference between the means")
    )
    variance = next(decoded(source) for alt, source in sources.items() if alt.startswith("variance of each pixel"))
    assert difference[28:31, 28:31].min() > difference[:28].max()
    assert variance[28:31, 28:31].max() == 0 < variance[:28].min()


def test_without_the_pixels_the_page_says_so_and_shows_the_trigger(poisoned: ScanReport) -> None:
    page = page_of(poisoned)
    assert "This page has no pictures of samples" in page.text
    assert "vbdguard scan shards/ --device cpu -o report.html" in page.text
    assert {image["alt"] for image in page.all("img")} == {
        "trigger of class 3 thing3",
        "the trigger, enlarged",
        "the trigger in its place",
        "the mask: white where the trigger is",
    }


def test_pixels_that_have_gone_meanwhile_are_named_as_missing(stored: tuple[ScanReport, StoredImages]) -> None:
    report, images = stored
    (segment,) = {image.segment for image in images.flagged[1]}
    (segment / "pixels.npy").unlink()
    page = page_of(report, Extras(images=images))
    assert "The samples' pixels cannot be read from the cache" in page.text
    assert "the trigger, enlarged" in {image["alt"] for image in page.all("img")}


def test_a_gradient_is_shown_where_the_report_has_one(poisoned: ScanReport, make_trigger: Any) -> None:
    trigger = make_trigger()
    classes = tuple(
        replace(entry, trigger=replace(trigger, gradient_png=trigger.mask_png)) if entry.poisoned else entry
        for entry in poisoned.classes
    )
    assert "Gradient</figcaption>" in render(replace(poisoned, classes=classes), "html")
    assert "Gradient</figcaption>" not in render(poisoned, "html")


def test_the_histogram_counts_flagged_and_kept(stored: tuple[ScanReport, StoredImages], poisoned: ScanReport) -> None:
    report, images = stored
    text = render(report, "html", Extras(images=images))
    assert "<title>0.00 to 0.05: 0 flagged, 18 kept</title>" in text
    assert "<title>0.90 to 0.95: 12 flagged, 0 kept</title>" in text
    assert 'aria-label="Flagged samples score 0.90 to 0.95; kept samples score 0.00 to 0.05."' in text
    assert "kept no scores of kept samples" not in text
    assert "kept no scores of kept samples" in render(poisoned, "html")


def test_a_suspicious_class_is_named_and_not_called_clean(suspicious: ScanReport) -> None:
    page = page_of(suspicious)
    assert "class 2 thing2: p-value 0.004" in page.text
    assert page.text.count("nothing found") == 9


def test_an_artefact_is_told_as_no_poison(marked: ScanReport) -> None:
    text = page_of(marked).text
    assert "Artefacts, no alarm" in text
    assert "class 2 thing2: 3 x 3 bottom right, on 80 of 100 samples" in text
    assert text.count("nothing found") == 9


def test_an_accepted_finding_says_so(poisoned: ScanReport) -> None:
    (finding,) = findings_of(poisoned)
    assert "accepted by the baseline: a drill" in page_of(poisoned, Extras({finding.digest: "a drill"})).text


def test_a_thousand_poisoned_classes_stay_under_five_megabytes(huge: ScanReport) -> None:
    text = render(huge, "html")
    assert len(text.encode()) < 5_000_000
    assert len(re.findall("<article", text)) == 60
    assert "the table above has all 1,000" in text
    assert 'data-filter="poisoned"' in text


def test_more_classes_than_anybody_reads_are_counted(make_report: Make, make_trigger: Any) -> None:
    text = render(make_report(dict.fromkeys(range(4000), make_trigger()), classes=4000), "html")
    assert len(text) < 5_000_000
    assert "the table above has the first 1,500" in text
    assert "4,000 classes, 4,000 of them poisoned" in text
    assert "and 2000 more" in text


def test_large_pictures_are_kept_within_the_budget(make_report: Make, make_trigger: Any) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (224, 224, 4), dtype=np.uint8)
    noise[..., 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    trigger = make_trigger((0, 0, 224, 224), frame=(224, 224))
    trigger = replace(trigger, pattern_png=base64.b64encode(buffer.getvalue()).decode())
    report = make_report(dict.fromkeys(range(80), trigger), classes=80)
    assert len(render(report, "html")) < 5_000_000


def test_a_trigger_that_is_no_picture_costs_the_picture_only(poisoned: ScanReport) -> None:
    broken = tuple(
        replace(entry, trigger=replace(entry.trigger, pattern_png="AAAA")) if entry.trigger else entry
        for entry in poisoned.classes
    )
    assert "3 x 3 bottom right" in render(replace(poisoned, classes=broken), "html")
