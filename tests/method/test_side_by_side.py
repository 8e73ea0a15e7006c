from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from listeners import Counting

from vbdguard.method.side_by_side import side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_the_order_of_the_items_with_a_step_each() -> None:
    def later_the_smaller(item: int) -> int:
        time.sleep(0.02 * (5 - item))
        return item * item

    listener = Counting()
    assert side_by_side(later_the_smaller, range(5), device=CPU, progress=listener) == [0, 1, 4, 9, 16]
    assert listener.steps == 5


@pytest.mark.usefixtures("two_threads")
def test_as_many_items_run_at_once_as_torch_has_threads_each_with_one() -> None:
    both_there = threading.Barrier(2, timeout=20)

    def meet(_: int) -> int:
        both_there.wait()  # breaks, and so fails, unless two items run at the same time
        return torch.get_num_threads()

    assert side_by_side(meet, range(4), device=CPU) == [1, 1, 1, 1]
    assert torch.get_num_threads() == 2


def test_with_one_thread_items_come_one_after_the_other() -> None:
    running, most = 0, 0

    def note(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1

    side_by_side(note, range(4), device=CPU)
    assert most == 1


@pytest.mark.usefixtures("two_threads")
def test_an_error_comes_through_ends_the_rest_and_leaves_torch_as_it_was() -> None:
    done: list[int] = []

    def fail_at_first(item: int) -> None:
        if item == 0:
            raise ValueError("item 0")
        time.sleep(0.05)
        done.append(item)

    with pytest.raises(ValueError, match="item 0"):
        side_by_side(fail_at_first, range(200), device=CPU)
    assert len(done) < 20
    assert torch.get_num_threads() == 2


def test_nothing_to_do_gives_nothing() -> None:
    assert side_by_side(lambda item: item, [], device=CPU) == []
