"""Parts of a batch side by side: in order, each on one thread, without gradients, and torch's settings stay."""

import threading
from collections.abc import Iterator

import pytest
import torch
from toy_classifiers import pixels, small_cnn

from explain.probability import CPU_IMAGES, CPU_PIXELS, at_once, logits_in_parts
from explain.workers import side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_are_done_beside_each_other_in_their_order(two_threads: None) -> None:
    both = threading.Barrier(2)

    def work(part: int) -> tuple[int, int, bool, str]:
        both.wait(10)  # passed only where two are at work
        return part, torch.get_num_threads(), torch.is_grad_enabled(), threading.current_thread().name

    found = side_by_side(work, [3, 1, 4, 1], CPU)
    assert [part for part, *_ in found] == [3, 1, 4, 1]
    assert {threads for _, threads, *_ in found} == {1}
    assert not any(grad for *_, grad, _ in found)
    assert len({name for *_, name in found}) == 2
    assert torch.get_num_threads() == 2
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))  # type: ignore[arg-type]
    later.start()
    later.join()
    assert found[-1] == 2


def test_one_thread_one_part_and_other_devices_need_no_workers(two_threads: None) -> None:
    here = threading.current_thread().name
    assert side_by_side(lambda _: threading.current_thread().name, [0], CPU) == [here]
    assert set(side_by_side(lambda _: threading.current_thread().name, [0, 1], torch.device("meta"))) == {here}
    torch.set_num_threads(1)
    assert set(side_by_side(lambda _: threading.current_thread().name, [0, 1], CPU)) == {here}
    assert torch.is_grad_enabled()


def test_an_error_in_a_part_is_raised(two_threads: None) -> None:
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, [1, 0, 2], CPU)
    assert side_by_side(lambda part: part + 1, [1, 2], CPU) == [2, 3]


def test_logits_in_parts_are_those_of_the_whole(two_threads: None) -> None:
    classifier, images = small_cnn(), pixels(37, 3, 24, 32)
    with torch.no_grad():
        expected = classifier(images)
    for batch_size in (1, 5, 100):
        found = logits_in_parts(classifier, images, batch_size)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad


def test_a_pass_is_no_larger_than_the_caches_or_the_batch() -> None:
    assert at_once(torch.empty(1, 3, 224, 224)) == 4
    assert at_once(torch.empty(1, 3, 28, 20)) == CPU_IMAGES
    assert at_once(torch.empty(1, 3, 28, 20), 5) == 5
    assert at_once(torch.empty(1, 1, CPU_PIXELS, 2)) == 1
    assert at_once(torch.empty(1, 3, 224, 224, device="meta"), 64) == 64
