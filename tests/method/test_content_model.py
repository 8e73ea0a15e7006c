"""The classifier that tells what images show."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbdguard.config import LabelCheckConfig
from vbdguard.method.content_model import ContentNet, fit_content_model, log_probabilities
from vbdguard.method.samples import Samples, centred, stratified_split

CONFIG = LabelCheckConfig(architecture=(8, 16), epochs=10, min_steps=0, batch_size=32)


def drawn(n: int, size: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def plain(net: ContentNet) -> nn.Sequential:
    """The same of torch's own layers."""
    layers: list[nn.Module] = []
    for i, weight in enumerate(net.weights):
        convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
        convolution.weight = nn.Parameter(weight.detach().clone())
        normalisation = nn.BatchNorm2d(weight.shape[0])
        normalisation.load_state_dict(
            {
                "weight": net.gains[i].detach(),
                "bias": net.shifts[i].detach(),
                "running_mean": net.get_buffer(f"running_mean{i}"),
                "running_var": net.get_buffer(f"running_var{i}"),
                "num_batches_tracked": torch.tensor(0),
            }
        )
        layers += [convolution, normalisation, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
    head = nn.Linear(net.head_weight.shape[1], net.head_weight.shape[0])
    head.weight, head.bias = nn.Parameter(net.head_weight.detach()), nn.Parameter(net.head_bias.detach())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), head)


@pytest.mark.parametrize("is_training", [False, True])
def test_it_computes_what_torch_s_own_layers_do(is_training: bool) -> None:
    net = ContentNet((8, 16, 8), 3, 5, generator=torch.Generator().manual_seed(1))
    images = drawn(6, (17, 12, 3))
    with torch.no_grad():  # statistics that are not those of fresh layers
        net.train()(drawn(40, (17, 12, 3), 2))
    oracle = plain(net).train(is_training)
    found = net.train(is_training)(images)
    torch.testing.assert_close(found, oracle(centred(images) / 64), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(6, 6, 1), (6, 40, 3), (32, 32, 3), (31, 17, 1)])
def test_images_of_any_size_that_others_take_fit(size: tuple[int, int, int]) -> None:
    samples = Samples(drawn(20, size), torch.arange(20) % 4, 4)
    model = fit_content_model(samples, replace(CONFIG, architecture=(8, 8, 8), epochs=1), seed=0)
    found = log_probabilities(model, samples.images)
    assert found.shape == (20, 4)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(20))


def test_it_tells_photographs_apart_that_it_has_not_seen(natural: Samples) -> None:
    learned, other = stratified_split(natural.labels, 0.5, torch.Generator().manual_seed(0))
    model = fit_content_model(natural.subset(learned), CONFIG, seed=0)
    found = log_probabilities(model, natural.images[other])
    assert float((found.argmax(1) == natural.labels[other]).float().mean()) > 0.75
    assert float(F.nll_loss(found, natural.labels[other])) < 0.75


def test_the_same_seed_gives_the_same_model_and_another_another(natural: Samples) -> None:
    some = natural.subset(torch.arange(0, len(natural), 5))
    config = replace(CONFIG, epochs=2)
    one, same, other = (log_probabilities(fit_content_model(some, config, seed=s), some.images) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_few_samples_get_as_many_steps_as_asked_for(natural: Samples) -> None:
    """A handful of samples under arbitrary labels is learned by heart in two hundred steps, not in five."""
    some = Samples(natural.images[:8], torch.tensor([0, 1, 2, 3] * 2), 4)
    long, short = (fit_content_model(some, replace(CONFIG, epochs=5, min_steps=steps), seed=0) for steps in (200, 0))
    losses = [float(F.nll_loss(log_probabilities(model, some.images), some.labels)) for model in (long, short)]
    assert losses[0] < 0.2 < losses[1]
