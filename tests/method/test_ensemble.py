from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from listeners import Counting
from torch import Tensor

from vbdguard.config import EnsembleConfig
from vbdguard.method.ensemble import Ensemble, fit_ensemble, predict
from vbdguard.method.samples import Samples, centred
from vbdguard.progress import Silent

QUICK = EnsembleConfig(architectures=((4,), (3, 3)), epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def few() -> Samples:
    """Two classes of noise, one darker."""
    labels = torch.arange(150) % 3 % 2
    noise = torch.randint(0, 200, (150, 12, 12, 3), generator=torch.Generator().manual_seed(0))
    return Samples((noise + 50 * labels[:, None, None, None]).to(torch.uint8), labels, 2)


def weights(ensemble: Ensemble) -> list[Tensor]:
    return [tensor for fitted in ensemble.models for tensor in fitted.model.state_dict().values()]


def test_the_detection_split_is_a_stratified_fifth(few: Samples) -> None:
    ensemble = fit_ensemble(few, QUICK, seed=0, progress=Silent())
    assert len(ensemble.detection) == 30
    for label in (0, 1):
        assert int((few.labels[ensemble.detection] == label).sum()) == len(few.members(label)) // 5


def test_without_a_split_all_samples_are_looked_at(few: Samples) -> None:
    ensemble = fit_ensemble(few, replace(QUICK, train_share=1.0), seed=0, progress=Silent())
    assert ensemble.detection.tolist() == list(range(150))


def test_the_models_are_as_configured_and_at_rest(few: Samples) -> None:
    ensemble = fit_ensemble(few, QUICK, seed=0, progress=Silent())
    assert [tuple(len(gain) for gain in fitted.model.gains) for fitted in ensemble.models] == [(4,), (3, 3)]
    for fitted in ensemble.models:
        assert not fitted.model.training
        assert not any(parameter.requires_grad for parameter in fitted.model.parameters())
        assert 0 <= fitted.train_accuracy <= 1


def test_input_normalisation_takes_mean_and_standard_deviation_of_all_pixels(few: Samples) -> None:
    model = fit_ensemble(few, QUICK, seed=0, progress=Silent()).models[0].model
    pixels = few.images.numpy().astype(np.float64)
    np.testing.assert_allclose(model.pixel_mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(model.pixel_std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_a_channel_without_spread_is_not_divided_by_zero(few: Samples) -> None:
    images = few.images.clone()
    images[..., 2] = 9
    ensemble = fit_ensemble(replace(few, images=images), QUICK, seed=0, progress=Silent())
    assert float(ensemble.models[0].model.pixel_std[2]) == 1.0
    assert predict(ensemble.models[0].model, images).isfinite().all()


def test_the_seed_alone_decides_the_outcome(few: Samples) -> None:
    torch.manual_seed(1)
    first = fit_ensemble(few, QUICK, seed=5, progress=Silent())
    torch.manual_seed(2)
    second = fit_ensemble(few, QUICK, seed=5, progress=Silent())
    other = fit_ensemble(few, QUICK, seed=6, progress=Silent())
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert torch.equal(first.detection, second.detection)
    assert not torch.equal(first.detection, other.detection)


def test_training_does_not_draw_on_the_global_generator(few: Samples) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit_ensemble(few, QUICK, seed=0, progress=Silent())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_listener_hears_of_each_epoch(few: Samples) -> None:
    listener = Counting()
    fit_ensemble(few, replace(QUICK, epochs=3), seed=0, progress=listener)
    assert listener.steps == 3


def test_models_learn_what_is_easy(few: Samples) -> None:
    ensemble = fit_ensemble(few, replace(QUICK, epochs=6), seed=0, progress=Silent())
    for fitted in ensemble.models:
        right = (predict(fitted.model, few.images).argmax(1) == few.labels).float().mean()
        assert float(right) > 0.95
        assert fitted.train_accuracy > 0.9


def test_prediction_in_chunks_is_the_model_on_everything(ensemble: Ensemble, natural: Samples) -> None:
    model = ensemble.models[0].model
    whole = model(centred(natural.images))
    assert len(natural) > 512
    # chunks of other sizes may be summed in another order, in bfloat16 where the processor has it
    torch.testing.assert_close(predict(model, natural.images), whole, rtol=0.02, atol=0.02 * float(whole.std()))
