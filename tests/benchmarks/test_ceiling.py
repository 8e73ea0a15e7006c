"""The oracle finds what can be found and no more; its best F1 is that of trying every threshold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ceiling, oracle
from benchmarks.ceiling import Scored, best_f1
from benchmarks.oracle import OracleSettings, cross_fitted_logits, window

QUICK = OracleSettings(images=240, epochs=10, batch_size=32, filters=(8, 8, 8))


def slow_best_f1(scored: list[Scored]) -> float:
    """Every threshold in turn, samples counted by their weight."""
    samples = []
    for one in scored:
        shift = np.log(one.prior / (1 - one.prior))
        for logits, share, is_stamped in ((one.clean, 1 - one.prior, False), (one.stamped, one.prior, True)):
            samples += [(logit + shift, share * one.members / len(logits), is_stamped) for logit in logits]
    best = 0.0
    for threshold, _, _ in samples:
        flagged = [(weight, is_stamped) for score, weight, is_stamped in samples if score >= threshold]
        hits = sum(weight for weight, is_stamped in flagged if is_stamped)
        poison = sum(weight for _, weight, is_stamped in samples if is_stamped)
        best = max(best, 2 * hits / (sum(weight for weight, _ in flagged) + poison))
    return 100 * best


@pytest.mark.parametrize("priors", [(0.5,), (0.1,), (0.1, 0.4)])
def test_the_best_f1_is_that_of_trying_every_threshold(priors: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    scored = [
        # Rounded, so that scores tie.
        Scored(rng.normal(0, 1, 80).round(1), rng.normal(1.5, 1, 80).round(1), prior, 100 + 50 * number)
        for number, prior in enumerate(priors)
    ]
    f1, precision, recall = best_f1(scored)
    assert f1 == pytest.approx(slow_best_f1(scored))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_an_oracle_that_knows_nothing_does_as_well_as_flagging_everything() -> None:
    same = np.zeros(50)
    assert best_f1([Scored(same, same.copy(), 0.1, 100)])[0] == pytest.approx(100 * 0.2 / 1.1)


def pictures(n: int) -> np.ndarray:
    """Smooth random pictures, 24 x 24."""
    coarse = np.random.default_rng(0).integers(0, 220, (n, 6, 6, 3))
    return np.repeat(np.repeat(coarse, 4, 1), 4, 2).astype(np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((24, 24), np.bool_)
    mask[20:23, 20:23] = True
    return mask


def test_an_opaque_trigger_is_told_from_clean_images_that_the_network_never_saw(mask: np.ndarray) -> None:
    clean = pictures(240)
    stamped = clean.copy()
    stamped[:, mask] = 255
    logits = cross_fitted_logits(clean, stamped, mask, QUICK, seed=0, device=torch.device("cpu"))
    assert best_f1([Scored(*logits, 0.1, 100)])[0] > 97


def test_images_are_judged_by_a_network_that_never_saw_them(mask: np.ndarray) -> None:
    """Noise against other noise: there is nothing to know, but a network can remember the images it learned from."""
    settings = OracleSettings(epochs=40, batch_size=32, lr=1e-2, dropout=0.0)
    noise = np.random.default_rng(0).integers(0, 256, (2, 80, 24, 24, 3), dtype=np.uint8)
    logits = cross_fitted_logits(*noise, mask, settings, seed=0, device=torch.device("cpu"))
    crops = [torch.from_numpy(part[:, 13:24, 13:24].copy()) for part in noise]
    network = oracle._fit(crops, settings, 0, torch.device("cpu"))
    remembered = [oracle._judge(network, part).double().numpy() for part in crops]
    accuracy = [float(np.mean([(pair[0] < 0).mean(), (pair[1] > 0).mean()])) for pair in (logits, remembered)]
    assert accuracy[1] > 0.95
    assert 0.35 < accuracy[0] < 0.65


def test_the_same_seed_gives_the_same_figures_and_leaves_other_draws_alone(mask: np.ndarray) -> None:
    clean = pictures(40)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = [cross_fitted_logits(clean, 255 - clean, mask, QUICK, seed=1, device=torch.device("cpu")) for _ in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((14, 16, 14, 16), (slice(10, 21), slice(10, 21))),
        ((29, 31, 0, 2), (slice(21, 32), slice(0, 11))),
        ((0, 31, 5, 25), (slice(8, 24), slice(7, 23))),
    ],
)
def test_the_window_is_eleven_pixels_about_a_patch_and_stays_inside(
    box: tuple[int, int, int, int], expected: tuple[slice, slice]
) -> None:
    top, bottom, left, right = box
    mask = np.zeros((32, 32), np.bool_)
    mask[top : bottom + 1, left : right + 1] = True
    assert window(mask, OracleSettings()) == expected


def test_ceilings_fall_with_the_blend_factor_and_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.data._DEMO_PER_CLASS", 40)
    monkeypatch.setattr(ceiling, "OracleSettings", lambda images=240: QUICK)
    out = tmp_path / "ceiling.jsonl"
    cells = ("a2o/white_square/1", "a2o/white_square/0.02", "a2a/white_grid/1/0.2+grey", "clean")
    monkeypatch.setattr(
        sys, "argv", ["ceiling", "--data", "demo", "--cells", *cells, "--places", "2", "--out", str(out)]
    )
    ceiling.main()
    opaque, faint, all_to_all = map(json.loads, out.read_text().splitlines())
    assert opaque["f1"] > faint["f1"] + 3
    assert {record["method"] for record in (opaque, faint, all_to_all)} == {"ceiling"}
    assert list(all_to_all["priors"]) == ["0", "9"]
    # 40 poisoned among the 400, all of them labelled 0, beside the 36 or so that were 0 and stayed clean
    assert opaque["priors"]["0"] == pytest.approx(40 / 76, abs=0.06)
    assert 0 < all_to_all["f1_at_10_percent"] <= 100
    assert "clean" not in capsys.readouterr().out
