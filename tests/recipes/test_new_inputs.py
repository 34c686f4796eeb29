import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprior.data import ArrayDataset, DataBundle, LazyDataset, from_arrays
from bayesprior.errors import ConfigError
from bayesprior.recipes.new_inputs import NewInputs


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(pixels, tmp_path):
    """The images as files, hidden and other files beside them."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save((folder / "more" if number > 2 else folder) / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    return folder


def task_of(pixels, **options):
    labels = np.arange(len(pixels)) % 2
    return from_arrays("task", (pixels[::-1] // 2, labels), (pixels, labels), **options)


def test_pictures_and_arrays_are_what_the_runs_own_data_set_gives(pixels, folder, tmp_path):
    task = task_of(pixels)
    expected = task.test.__getitems__(list(range(5)))[0]
    np.savez(tmp_path / "bytes.npz", x=pixels)
    np.savez(tmp_path / "floats.npz", x=(pixels / 255).astype(np.float32))
    for path in (folder, tmp_path / "bytes.npz", tmp_path / "floats.npz"):
        source = NewInputs([path], task, batch_size=2)
        for _ in range(2):  # read anew at every pass
            batches = list(source)
            assert [len(batch) for batch in batches] == [2, 2, 1]
            torch.testing.assert_close(torch.cat(batches), expected)
            assert len(source.files) == 5
        assert not source.unreadable


def test_files_are_named_in_order(pixels, folder, tmp_path):
    np.savez(tmp_path / "new.npz", x=pixels[:2])
    source = NewInputs([folder, tmp_path / "new.npz", folder / "1.png"], task_of(pixels), 10)
    list(source)
    own = [folder / name for name in ("0.png", "1.png", "2.png", "more/3.png", "more/4.png")]
    rows = [f"{tmp_path / 'new.npz'}[{row}]" for row in range(2)]
    assert source.files == [*map(str, own), *rows, str(folder / "1.png")]


def test_a_transform_that_resizes_takes_other_sizes(pixels, tmp_path):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "large.png")
    [inputs] = NewInputs([tmp_path], task_of(pixels, size=4), 10)
    assert inputs.shape == (1, 3, 4, 4)
    source = NewInputs([tmp_path], task_of(pixels), 10)
    assert not list(source)
    assert (
        "the shape (3, 9, 9), the run's inputs have (3, 8, 8)"
        in source.unreadable[str(tmp_path / "large.png")]
    )


def test_tables_have_no_pictures(folder):
    task = task_of(np.random.default_rng(0).normal(size=(6, 4)))
    source = NewInputs([folder / "0.png"], task, 10)
    assert not list(source)
    assert "is a picture, and 'task' has none" in source.unreadable[str(folder / "0.png")]


def test_runs_of_files_read_pictures_through_their_own_crop(pixels, folder, tmp_path):
    def crop(image):
        assert image.mode == "RGB"
        return torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1)

    source = [(Image.new("RGB", (8, 8)), 0)] * 2
    test = LazyDataset(source, torch.tensor([0, 1]), crop=crop, transform=lambda x: x / 255)
    train = ArrayDataset(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
    task = DataBundle("files", train, test, class_names=("a", "b"))
    np.savez(tmp_path / "new.npz", x=pixels)
    [inputs] = NewInputs([folder, tmp_path / "new.npz"], task, batch_size=100)
    assert inputs.shape == (10, 3, 4, 4)
    torch.testing.assert_close(inputs[:5], inputs[5:])


def test_nothing_to_read_is_refused_before_any_work(pixels, tmp_path):
    for paths, said in (
        ([], "nothing to predict"),
        ([tmp_path], "holds no pictures"),
        ([tmp_path / "no"], "there is no file"),
    ):
        with pytest.raises(ConfigError, match=said):
            NewInputs(paths, task_of(pixels), 10)


def test_masks_are_not_taken_for_new_pictures(pixels, folder):
    shutil.copytree(folder, folder / "images")
    shutil.copytree(folder / "images", folder / "masks")
    with pytest.raises(ConfigError, match=r"holds masks, too; give .*images"):
        NewInputs([folder], task_of(pixels), 10)
    assert len(list(NewInputs([folder / "images"], task_of(pixels), 10))) == 1
