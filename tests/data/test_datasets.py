import pytest
import torch

from bayesprior.data.batch_sampler import EpochIndices, uniforms
from bayesprior.data.bundle import as_examples
from bayesprior.data.datasets import NUM_UNIFORMS, ArrayDataset, LabeledDataset, LazyDataset
from bayesprior.errors import DataError


def shift(images, numbers):
    return images + numbers[:, :1]


def array_dataset(**options):
    return ArrayDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6) % 3, **options)


class Source:
    """Counts what is read."""

    def __init__(self, sizes):
        self.images = [torch.full((1, s, s), float(i)) for i, s in enumerate(sizes)]
        self.reads = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.images[index], "label as stored"


def crop(image):
    return image[:, :2, :2]


def noisy(image):
    return crop(image) + torch.rand(())


def lazy_dataset(**options):
    return LazyDataset(Source([3, 4, 5, 6]), torch.tensor([0, 1, 0, 1]), crop, **options)


@pytest.mark.parametrize("make", [array_dataset, lazy_dataset])
def test_items_batches_and_subsets_agree(make):
    data = make(transform=lambda x: 10 * x)
    assert isinstance(data, LabeledDataset)
    inputs, targets = data.__getitems__([3, 0, 2])
    for row, index in enumerate([3, 0, 2]):
        assert torch.equal(data[index][0], inputs[row])
        assert data[index][1] == targets[row] == data.targets[index]
    part = data.subset(torch.tensor([3, 0, 2])).subset(torch.tensor([2, 1]))
    assert torch.equal(part.__getitems__([0, 1])[0], inputs[[2, 1]])
    relabeled = data.subset(torch.tensor([2, 3]), targets=torch.tensor([7, 8]))
    assert relabeled.targets.tolist() == [7, 8]
    assert relabeled[1][1] == 8
    assert as_examples(data) is data


def test_array_augmentation_sees_raw_inputs_and_its_own_numbers():
    data = array_dataset(augment=shift, transform=lambda x: -x)
    indices = EpochIndices([4, 1], key=99)
    expected = -(data.inputs[[4, 1]] + uniforms(99, [4, 1], NUM_UNIFORMS)[:, :1])
    assert torch.equal(data.__getitems__(indices)[0], expected)
    plain = data.without_augmentation()
    assert torch.equal(plain.__getitems__(indices)[0], -data.inputs[[4, 1]])


@pytest.mark.parametrize("make", [array_dataset, lazy_dataset])
def test_augmentation_depends_on_epoch_and_example_only(make):
    data = make(augment=shift if make is array_dataset else noisy)
    before = torch.get_rng_state()
    (three, one), _ = data.__getitems__(EpochIndices([3, 1], key=5))
    assert torch.equal(data.__getitems__(EpochIndices([1], key=5))[0][0], one)
    assert not torch.equal(data.__getitems__(EpochIndices([1], key=6))[0][0], one)
    assert torch.equal(torch.get_rng_state(), before)
    # Another library's loader gives plain lists: torch's generator decides.
    assert not torch.equal(data.__getitems__([3])[0][0], data.__getitems__([3])[0][0])


def test_lazy_reads_what_it_needs_and_no_labels():
    data = lazy_dataset()
    assert data.subset(torch.tensor([1, 3])).targets.tolist() == [1, 1]
    assert data.source.reads == []
    data.subset(torch.tensor([1, 3]))[1]
    assert data.source.reads == [3]


def test_lengths_must_agree():
    with pytest.raises(DataError, match=r"2 inputs but targets of shape \(3,\)"):
        ArrayDataset(torch.zeros(2, 1), torch.zeros(3))
    with pytest.raises(DataError, match="one target per input"):
        LazyDataset(Source([2, 2]), torch.zeros(1), crop)


def test_crops_must_have_one_size():
    data = LazyDataset(Source([2, 3]), torch.zeros(2), crop=lambda image: image)
    with pytest.raises(DataError, match=r"shapes \[\(1, 2, 2\), \(1, 3, 3\)\].*of one size"):
        data.__getitems__([0, 1])
