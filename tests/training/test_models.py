from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from vbdguard.errors import ConfigError
from vbdguard.training.models import OWN_MODELS, PreActBlock, PreActResNet18, build_model, check_name, model_name

SHAPE = (32, 32, 3)


def weights(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


@pytest.mark.parametrize("name", [*OWN_MODELS, "resnet18", "mobilenet_v3_small"])
def test_models_by_name_give_logits_for_images_of_32_pixels(name: str) -> None:
    model = build_model(name, 7, SHAPE, seed=0)
    assert model.training
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (96, 96)])
def test_the_small_network_takes_all_sizes_of_a_scan(size: tuple[int, int]) -> None:
    build_model("small", 3, (*size, 3), seed=0)


def test_a_narrow_preact_resnet18_has_as_many_layers() -> None:
    narrow, published = PreActResNet18(10, width=8), PreActResNet18(10)
    assert [type(m) for m in narrow.modules()] == [type(m) for m in published.modules()]
    assert [8 * p.shape[0] for p in narrow.stem.parameters()] == [p.shape[0] for p in published.stem.parameters()]
    assert narrow.head.in_features == 64
    with pytest.raises(ConfigError, match="a multiple of 8, got 4"):
        PreActResNet18(10, width=4)


def test_preact_resnet18_has_the_published_size() -> None:
    # 17 convolutions of 3 x 3 and the head; parameters counted by hand from the paper's layers, for 10 classes.
    model = PreActResNet18(10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == 18
    widths = [64, 64, 64, 64, 64, 128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512]
    convolutions = 9 * (3 * 64 + sum(a * b for a, b in pairwise(widths)))
    shortcuts = 64 * 128 + 128 * 256 + 256 * 512
    norms = 2 * (sum(widths[:-1]) + 512)
    assert sum(weight.numel() for weight in model.parameters()) == convolutions + shortcuts + norms + 512 * 10 + 10


def test_a_block_of_equal_shape_hands_its_input_through_untouched() -> None:
    block = PreActBlock(4, 4, 1)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_a_seed_decides_the_weights_and_leaves_the_users_chance_alone() -> None:
    torch.random.manual_seed(5)
    expected = torch.rand(1)
    torch.random.manual_seed(5)
    first, again, other = (build_model("small", 3, SHAPE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(map(torch.equal, weights(first), weights(again)))
    assert not all(map(torch.equal, weights(first), weights(other)))


def test_torchvisions_resnets_keep_the_resolution_of_small_images() -> None:
    small, large = (build_model("resnet18", 3, (side, side, 3), seed=0) for side in (32, 96))
    assert small.conv1.stride == (1, 1)  # type: ignore[union-attr]
    assert large.conv1.stride == (2, 2)  # type: ignore[union-attr]


def test_a_module_of_the_users_is_copied() -> None:
    mine = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    before = copy.deepcopy(mine)
    model = build_model(mine, 3, SHAPE, seed=0)
    with torch.no_grad():
        model[1].weight.zero_()  # type: ignore[index,union-attr,operator]
    assert all(map(torch.equal, weights(mine), weights(before)))


def test_a_function_gets_the_number_of_classes() -> None:
    def mine(n_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, n_classes))

    assert build_model(mine, 5, SHAPE, seed=0)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert model_name(mine) == "mine"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("resnet19", "no model 'resnet19'; did you mean resnet18"),
        ("qqq", "no model 'qqq'; use preact_resnet18, small or one of torchvision's"),
        ("alexnet", "'alexnet' cannot take images of 32 x 32 pixels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), r"must return logits \(n, 3\).*returned \(2, 4\)"),
        (nn.Flatten(), r"returned \(2, 3072\)"),
        (lambda n_classes: n_classes, "must return a torch module, got <class 'int'>"),
    ],
    ids=["near miss", "unknown", "too small", "other classes", "no classifier", "no module"],
)
def test_what_does_not_fit_is_refused_with_what_came(choice: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(choice, 3, SHAPE, seed=0)  # type: ignore[arg-type]


def test_a_wrong_name_can_be_told_before_any_data_are_read() -> None:
    with pytest.raises(ConfigError, match="no model"):
        check_name("resnet19")
    for choice in ("small", "resnet18", nn.Flatten()):
        check_name(choice)
