"""Replacing the class of a sample in whatever holds it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from vbdguard.errors import ConfigError
from vbdguard.guards.relabel import NewLabel, new_label, relabelled

CHANGE = NewLabel(old=1, new=2)


class Item(NamedTuple):
    image: str
    label: int


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (("x", 1), ("x", 2)),
        (["x", 1], ["x", 2]),
        (("x", 1, "more"), ("x", 2, "more")),
        (Item("x", 1), Item("x", 2)),
        ({"image": "x", "label": 1, "id": 7}, {"image": "x", "label": 2, "id": 7}),
        ({"img": "x", "fine_label": 1}, {"img": "x", "fine_label": 2}),
    ],
)
def test_the_container_stays_and_the_class_changes(item: Any, expected: Any) -> None:
    before = repr(item)
    assert relabelled(item, CHANGE) == expected
    assert type(relabelled(item, CHANGE)) is type(item)
    assert repr(item) == before


@pytest.mark.parametrize(
    "label", [torch.tensor(1), torch.tensor([1], dtype=torch.uint8), np.int32(1), np.array(1, dtype=np.int16)]
)
def test_the_class_keeps_its_type_and_shape(label: Any) -> None:
    changed = new_label(label, CHANGE)
    assert type(changed) is type(label)
    assert (changed.dtype, changed.shape, changed.item()) == (label.dtype, label.shape, 2)


def test_names_change_to_names() -> None:
    assert new_label("bee", NewLabel(old="bee", new="cat")) == "cat"


def test_a_label_transform_applies_to_the_new_class() -> None:
    assert new_label(11, CHANGE, transform=lambda label: label + 10) == 12


def test_one_hot_labels_change_through_their_transform() -> None:
    def one_hot(label: int) -> torch.Tensor:
        return torch.eye(3)[label]

    assert new_label(one_hot(1), CHANGE, transform=one_hot).tolist() == [0, 0, 1]


@pytest.mark.parametrize("label", [0, 2, "1", torch.tensor([0.0, 1.0])])
def test_a_class_that_the_scan_did_not_see_is_refused(label: Any) -> None:
    with pytest.raises(ConfigError, match="expected the class 1 that the scan saw"):
        new_label(label, CHANGE)


def test_an_item_without_a_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="finds no class to replace"):
        relabelled("x", CHANGE)
