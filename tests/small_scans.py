"""Settings of scans that take a fraction of a second; where the method itself matters, its own tests look at it."""

from __future__ import annotations

from vbdguard.config import (
    AttackCheckConfig,
    DetectorConfig,
    DirectMethodConfig,
    EnsembleConfig,
    LabelCheckConfig,
    MethodConfig,
    ScanConfig,
    SuspectsConfig,
    WindowDetectorConfig,
)

ACCUSING = ScanConfig(
    device="cpu",
    jobs=1,
    method=MethodConfig(
        ensemble=EnsembleConfig(architectures=((4,),), epochs=4, batch_size=16, train_share=1.0),
        suspects=SuspectsConfig(significance=1.1),
        attack_check=AttackCheckConfig(min_success_rate=0.0),
        detector=DetectorConfig(filters=4, epochs=2, batch_size=32, min_accuracy=0.0),
    ),
)
"""A quarter of a second, and it accuses innocent classes: for tests that ask what becomes of flags."""

SMALL_DEFAULT = ScanConfig(
    device="cpu",
    jobs=1,
    method=DirectMethodConfig(
        detector=WindowDetectorConfig(batch_size=64, epochs=8, lr=3e-3),
        label_check=LabelCheckConfig(epochs=10, min_steps=0, batch_size=32),
    ),
)
"""Preset `default` with as many steps as a thousand images need, not as 50,000 would."""
