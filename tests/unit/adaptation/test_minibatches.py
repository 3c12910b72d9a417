"""Order of minibatches, and the loader that hands them out."""

from itertools import chain, islice

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from panda_anomalib.adaptation.minibatches import AdaptationLoader, MinibatchOrder
from panda_anomalib.adaptation.stem_cache import StemOutputs


class Numbers(Dataset[Tensor]):
    """Image i is the number i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """The number."""
        return torch.tensor([float(index)])


def outputs(count: int) -> StemOutputs:
    """Stem outputs ``(1, B, 1)`` that name their images."""
    filled = StemOutputs(Numbers(count), lambda batch: batch[None], batch_size=4, cache="memory")
    filled.fill()
    return filled


def images(minibatch: Tensor) -> list[int]:
    """Numbers of the images in a minibatch."""
    return minibatch.flatten().int().tolist()


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 3, 1]), (2, 5, [2]), (6, 3, [3, 3]), (1, 1, [1])])
def test_each_pass_has_each_image_once(count: int, size: int, sizes: list[int]) -> None:
    """Also when one image is left over, and when there are fewer than a minibatch."""
    order = MinibatchOrder(count, size)
    assert order.per_pass == len(sizes)
    for number in range(3):
        minibatches = [order.indices(number * len(sizes) + i) for i in range(len(sizes))]
        assert [len(minibatch) for minibatch in minibatches] == sizes
        assert sorted(chain(*minibatches)) == list(range(count))


def test_passes_and_seeds_differ_and_repeat() -> None:
    """Order is drawn anew for each pass from seed and pass, whatever was asked for before."""
    order = MinibatchOrder(50, 50, seed=1)
    first, second, again = order.indices(0), order.indices(1), order.indices(0)
    assert first == again == MinibatchOrder(50, 50, seed=1).indices(0)
    assert second == MinibatchOrder(50, 50, seed=1).indices(1)
    assert first != second
    assert first != MinibatchOrder(50, 50, seed=2).indices(0)
    assert first != list(range(50))


@pytest.mark.parametrize("count", [16, 17, 19, 13])
def test_ranks_share_the_global_minibatch(count: int) -> None:
    """Three ranks with two images each have together what one process has with six: disjoint, and none is empty."""
    alone = MinibatchOrder(count, 6, seed=5)
    ranks = [MinibatchOrder(count, 2, seed=5, rank=rank, world_size=3) for rank in range(3)]
    assert [rank.per_pass for rank in ranks] == [alone.per_pass] * 3
    for position in range(2 * alone.per_pass):
        parts = [rank.indices(position) for rank in ranks]
        assert all(parts)
        together = alone.indices(position)
        assert set(chain(*parts)) == set(together)
        assert len([*chain(*parts)]) == max(len(together), 3)  # repeated only where a rank would have none


def test_left_out_images_never_come() -> None:
    """What is held out is in no minibatch, and the rest is in every pass."""
    order = MinibatchOrder(10, 4, left_out=[0, 7, 9])
    assert order.per_pass == 2
    assert sorted(order.indices(2) + order.indices(3)) == [1, 2, 3, 4, 5, 6, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"rank": 2, "world_size": 2}, r"rank must be in 0 \.\.\. world_size - 1 = 1, got 2"),
        ({"left_out": range(5)}, "left_out must leave an image, got all 5"),
    ],
)
def test_impossible_orders(arguments: dict[str, object], message: str) -> None:
    """Refused at once."""
    with pytest.raises(ValueError, match=message):
        MinibatchOrder(**{"num_images": 5, "batch_size": 2, **arguments})


def test_negative_position() -> None:
    """There is nothing before the first minibatch."""
    with pytest.raises(ValueError, match="position must be at least 0, got -1"):
        MinibatchOrder(5, 2).indices(-1)


def test_loader_goes_on_where_it_stopped() -> None:
    """Epochs follow each other in the order; a restored loader gives what the other would have given."""
    order = MinibatchOrder(7, 3, seed=2)
    loader = AdaptationLoader(outputs(7), order)
    assert len(loader) == 3
    seen = [images(minibatch.normals) for _ in range(2) for minibatch in loader]
    assert seen == [order.indices(position) for position in range(6)]

    loader.position = 0
    assert [images(minibatch.normals) for minibatch in islice(loader, 2)] == seen[:2]
    assert loader.state_dict() == {"position": 2}
    other = AdaptationLoader(outputs(7), MinibatchOrder(7, 3, seed=2))
    iterator = iter(other)  # Lightning makes it before the position is known
    other.load_state_dict({"position": 2})
    assert images(next(iterator).normals) == seen[2]
    assert other.position == 3


def test_length_of_an_epoch_is_free() -> None:
    """An epoch may be shorter or longer than a pass."""
    loader = AdaptationLoader(outputs(7), MinibatchOrder(7, 3, seed=2), length=4)
    assert len(loader) == 4
    expected = [MinibatchOrder(7, 3, seed=2).indices(position) for position in range(8)]
    assert [images(minibatch.normals) for _ in range(2) for minibatch in loader] == expected


def test_companions_come_alongside_in_endless_passes() -> None:
    """They have an order and labels of their own, also behind a resumption."""
    labels = torch.arange(5) + 100
    companion_order = MinibatchOrder(5, 2, seed=9)
    loader = AdaptationLoader(
        outputs(7),
        MinibatchOrder(7, 3),
        companions=outputs(5),
        companion_order=companion_order,
        companion_labels=labels,
    )
    for start in (0, 4):
        loader.position = start
        for position, minibatch in enumerate(loader, start=start):
            expected = companion_order.indices(position)
            assert images(minibatch.companions) == expected
            assert minibatch.labels.tolist() == [100 + index for index in expected]
            assert images(minibatch.normals) == loader.order.indices(position)


def test_without_companions_there_are_none() -> None:
    """The other fields are None, labels too."""
    minibatch = next(iter(AdaptationLoader(outputs(7), MinibatchOrder(7, 3))))
    assert minibatch.companions is None
    assert minibatch.labels is None
    unlabelled = AdaptationLoader(
        outputs(7), MinibatchOrder(7, 3), companions=outputs(5), companion_order=MinibatchOrder(5, 2)
    )
    assert next(iter(unlabelled)).labels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"companion_order": MinibatchOrder(5, 2)}, "companions and companion_order must be given together"),
        ({"companion_labels": torch.arange(5)}, r"companion_labels must be one per companion \(0\), got 5"),
        ({"order": MinibatchOrder(8, 2)}, "order must be of 7 images, got one of 8"),
        ({"length": 0}, "length must be at least 1, got 0"),
    ],
)
def test_parts_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    """Refused before training."""
    with pytest.raises(ValueError, match=message):
        AdaptationLoader(**{"normals": outputs(7), "order": MinibatchOrder(7, 3), **arguments})


def test_companions_that_do_not_fit() -> None:
    """Labels and order are of the companions."""
    with pytest.raises(ValueError, match="companion_order must be of 5 images, got one of 6"):
        AdaptationLoader(outputs(7), MinibatchOrder(7, 3), companions=outputs(5), companion_order=MinibatchOrder(6, 2))
