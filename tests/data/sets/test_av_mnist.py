import dataclasses
import functools
import gzip
import pathlib

import av_mnist_files
import numpy as np
import pytest

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.av_mnist.log_mel import log_mel
from sft_jax.data.sets.av_mnist.pairs import SPLITS, AvMnist, AvMnistOptions, read_av_mnist
from sft_jax.data.sets.av_mnist.weak_images import fit_components, weaken

TRAIN_LABELS = "mnist/train-labels-idx1-ubyte.gz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("av_mnist") / "files"
    av_mnist_files.write(path)
    return path


@pytest.fixture(scope="module")
def build(folder):
    return functools.cache(lambda **options: AvMnist(folder, AvMnistOptions(**options)))


@pytest.fixture
def own_folder(tmp_path):
    """Files that a test may damage."""
    av_mnist_files.write(tmp_path / "own", count=11, speakers=("ann",))
    return tmp_path / "own"


def _all(data, split):
    return [data.pair(split, index) for index in range(data.num_examples[split])]


def _same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_description_of_the_files(folder):
    data = read_av_mnist(str(folder))
    assert data.variant == "full"
    assert data.num_examples == {"train": 33, "valid": 3, "test": 7}
    assert data.shapes == {"image": (28, 28, 1), "sound": (64, 32, 1)}
    assert data.class_names == tuple("0123456789")
    assert data.task == "single_label"
    assert data.padding == {}
    assert list(data.known_releases.values()) == [{"train": 55000, "valid": 5000, "test": 10000}]
    assert sorted(data.files) == sorted(path for path in folder.rglob("*.gz"))


def test_records_have_the_promised_shapes(build):
    shapes = {"image": (28, 28, 1), "sound": (64, 32, 1)}
    data = build()
    for split, count in data.num_examples.items():
        records = list(data.read(split))
        assert len({record["id"] for record in records}) == len(records) == count
        for record in records:
            assert record["inputs"]["image"].shape == shapes["image"]
            assert record["inputs"]["image"].dtype == np.uint8
            assert record["inputs"]["sound"].shape == shapes["sound"]
            assert record["inputs"]["sound"].dtype == np.float32
            assert np.isfinite(record["inputs"]["sound"]).all()
            assert record["id"].split("+")[1].startswith(f"{record['label']}_")


def test_a_record_is_its_pair(build):
    data = build()
    for index, record in enumerate(data.read("test")):
        pair = data.pair("test", index)
        wave = pair.sound.speech + pair.sound.babble + pair.sound.pink
        expected = log_mel(wave, sample_rate=8000)
        np.testing.assert_array_equal(record["inputs"]["sound"][..., 0], expected)
        np.testing.assert_array_equal(record["inputs"]["image"][..., 0], pair.image)
        assert record["id"] == f"image_{pair.number:05d}+{pair.recording.name}"


def test_every_image_comes_once_with_a_recording_of_its_digit(build):
    numbers = {"train": range(33), "valid": range(33, 36), "test": range(7)}
    for split in SPLITS:
        labels = av_mnist_files.images(7 if split == "test" else 36)[1]
        pairs = _all(build(), split)
        assert sorted(pair.number for pair in pairs) == list(numbers[split])
        assert [pair.recording.digit for pair in pairs] == [labels[pair.number] for pair in pairs]


def test_images_come_in_a_random_order(build):
    orders = [[pair.number for pair in _all(data, "train")] for data in (build(), build(seed=1))]
    assert orders[0] != orders[1]
    assert all(order != sorted(order) for order in orders)


def test_images_are_weakened_by_the_components_of_the_training_images(build):
    pixels, _ = av_mnist_files.images(36)
    kept = fit_components(pixels[:33], 0.25)
    assert build().components == kept.components.shape[1]
    assert build().energy == kept.energy >= 0.25
    for split, raw in (
        ("train", pixels),
        ("valid", pixels),
        ("test", av_mnist_files.images(7, 1)[0]),
    ):
        for pair in _all(build(), split):
            np.testing.assert_array_equal(pair.image, weaken(raw[pair.number][None], kept)[0])
    assert build(energy=0.9).components > build().components


def test_no_recording_is_heard_in_two_splits(build, monkeypatch):
    heard = []

    def listen(rng, recording, voices, snr_db, samples):
        spoken, *around = (known[one.tobytes()] for one in (recording, *voices))
        assert spoken not in around
        assert len(around) == 4
        heard.extend([spoken, *around])

    known = {content[44:]: name for name, content in av_mnist_files.recordings().items()}
    monkeypatch.setattr("sft_jax.data.sets.av_mnist.pairs.mix", listen)
    for split, indices in (("train", range(10, 12)), ("valid", range(5, 10)), ("test", range(5))):
        heard.clear()
        _all(build(), split)
        expected = {
            f"{digit}_{who}_{i}.wav"
            for digit in range(10)
            for who in ("ann", "bob")
            for i in indices
        }
        assert len(set(heard)) > 10
        assert set(heard) <= expected


def test_ratios_fill_their_range(build):
    ratios = []
    for pair in _all(build(), "train"):
        sound = pair.sound
        speech = np.mean(sound.speech[sound.start : sound.stop] ** 2)
        ratio = 10 * np.log10(speech / np.mean((sound.babble + sound.pink) ** 2))
        assert ratio == pytest.approx(pair.snr_db, abs=1)  # The halves are nearly uncorrelated.
        ratios.append(pair.snr_db)
    assert -14 <= min(ratios) < -9
    assert 1 < max(ratios) <= 6
    assert {pair.snr_db for pair in _all(build(snr_db=(3.0, 3.0)), "valid")} == {3.0}


def test_the_same_seed_gives_the_same_examples(build, folder):
    again = AvMnist(folder, AvMnistOptions())
    for split in SPLITS:
        reads = build().read(split), again.read(split), build(seed=1).read(split)
        for first, second, third in zip(*reads, strict=True):
            assert first["id"] == second["id"]
            assert _same(first["inputs"], second["inputs"])
            assert not _same(first["inputs"], third["inputs"])


def test_reading_again_gives_the_same(build):
    for first, second in zip(build().read("test"), build().read("test"), strict=True):
        assert first["id"] == second["id"]
        assert _same(first["inputs"], second["inputs"])


def test_fewer_pairs_are_the_first_of_all(build):
    few = build(train_pairs=5, valid_pairs=1, test_pairs=2)
    assert few.num_examples == {"train": 5, "valid": 1, "test": 2}
    for split, count in few.num_examples.items():
        some = list(few.read(split))
        assert len(some) == count
        for first, second in zip(some, build().read(split), strict=False):
            assert first["id"] == second["id"]
            assert _same(first["inputs"], second["inputs"])


def test_blanking_changes_nothing_but_the_images(build):
    for full, blanked in zip(
        _all(build(), "valid"), _all(build(blanked_share=0.75), "valid"), strict=True
    ):
        assert (full.number, full.recording.name) == (blanked.number, blanked.recording.name)
        np.testing.assert_array_equal(full.sound.pink, blanked.sound.pink)
        kept = blanked.image > 0
        assert kept.reshape(7, 4, 7, 4).any((1, 3)).sum() <= 12
        np.testing.assert_array_equal(blanked.image[kept], full.image[kept])
        assert not np.array_equal(blanked.image, full.image)


def test_windows_of_other_lengths_have_other_numbers_of_frames(folder):
    data = read_av_mnist(folder, AvMnistOptions(window_seconds=0.5, test_pairs=1))
    assert data.shapes["sound"] == (30, 32, 1)
    assert next(data.read("test"))["inputs"]["sound"].shape == (30, 32, 1)


def test_every_form_of_the_files_gives_the_same(build, tmp_path):
    av_mnist_files.write(tmp_path / "plain", packed=False)
    images = tmp_path / "plain" / "mnist" / "train-images-idx3-ubyte"
    images.rename(images.with_name("train-images.idx3-ubyte"))
    for one, other in zip(
        build().read("valid"),
        read_av_mnist(tmp_path / "plain").read("valid"),
        strict=True,
    ):
        assert one["id"] == other["id"]
        assert _same(one["inputs"], other["inputs"])


def test_variants_tell_options_apart():
    variants = {
        AvMnistOptions(): "full",
        AvMnistOptions(blanked_share=0.75): "blanked",
        AvMnistOptions(blanked_share=0.5): "full_blanked_share_0p5",
        AvMnistOptions(train_pairs=8000, seed=3): "full_train_pairs_8000_seed_3",
        AvMnistOptions(blanked_share=0.75, snr_db=(-10, 2.5)): "blanked_snr_db_minus10_2p5",
        AvMnistOptions(energy=1e-07): "full_energy_1eminus07",
    }
    for options, expected in variants.items():
        assert options.variant == expected
        assert expected.isidentifier()
    names = {field.name for field in dataclasses.fields(AvMnistOptions)}
    other = {"snr_db": (0.0, 1.0), "window_seconds": 2.0, "energy": 0.5, "blanked_share": 0.1}
    changed = {AvMnistOptions(**{name: other.get(name, 9)}).variant for name in names}
    assert len(changed | {"full"}) == len(names) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0.0}, "energy=0.0 must be above 0 and at most 1"),
        ({"energy": 1.5}, "energy=1.5"),
        ({"blanked_share": 75}, "blanked_share=75 must be from 0 to 1"),
        ({"snr_db": (6.0, -14.0)}, "the lower first"),
        ({"snr_db": (0.0, float("inf"))}, "snr_db=.* must be two finite numbers"),
        ({"window_seconds": 0.01}, "window_seconds=0.01 must be at least 0.032"),
        ({"window_seconds": 1.00001}, "a multiple of 0.000125"),
        ({"window_seconds": float("nan")}, "window_seconds=nan"),
        ({"babble_voices": 0}, "babble_voices=0 must be at least 1"),
        ({"valid_pairs": 0}, "valid_pairs=0 must be None or at least 1"),
        ({"seed": -1}, "seed=-1 must be from 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AvMnistOptions(**options)


def test_more_pairs_than_images_are_refused(folder):
    with pytest.raises(ValueError, match="valid_pairs=4 must be at most 3, one for each image"):
        read_av_mnist(folder, AvMnistOptions(valid_pairs=4))


def test_an_unknown_split_is_named(build):
    with pytest.raises(ValueError, match="no split 'dev': there are train, valid, test"):
        next(build().read("dev"))


def test_all_missing_files_are_named_with_their_sources(own_folder, tmp_path):
    with pytest.raises(DataFileError, match=r"there is no folder .*nowhere"):
        read_av_mnist(tmp_path / "nowhere")
    (own_folder / "mnist" / "t10k-images-idx3-ubyte.gz").unlink()
    (own_folder / TRAIN_LABELS).unlink()
    (own_folder / av_mnist_files.ARCHIVE).unlink()
    with pytest.raises(DataFileError) as error:
        read_av_mnist(own_folder)
    for part in (
        "t10k-images-idx3-ubyte[.gz]",
        "train-labels-idx1-ubyte[.gz]",
        "storage.googleapis.com/cvdf-datasets/mnist",
        "free-spoken-digit-dataset*.tar.gz",
        "github.com/Jakobovski",
    ):
        assert part in str(error.value)
    assert "train-images" not in str(error.value)


def test_files_of_the_same_name_in_two_folders_are_named(own_folder):
    (own_folder / "fashion").mkdir()
    (own_folder / "fashion" / pathlib.Path(TRAIN_LABELS).name).touch()
    with pytest.raises(DataFileError, match=r"more than one folder.*fashion, .*mnist;"):
        read_av_mnist(own_folder)


def test_an_unpacked_file_beside_its_archive_is_no_second_one(own_folder):
    packed = own_folder / TRAIN_LABELS
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    assert packed.with_suffix("") in read_av_mnist(own_folder).files


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train-labels-idx1", np.zeros(35, "u1"), r"expected uint8 of shape \(36,\), one for each"),
        ("train-labels-idx1", np.zeros(36, "i4"), r"holds int32 of shape \(36,\)"),
        ("t10k-labels-idx1", np.uint8([0, 1, 2, 3, 4, 5, 10]), "has the label 10"),
        ("t10k-images-idx3", np.zeros((7, 28, 27), "u1"), r"expected uint8 of shape \(images, 28"),
        ("t10k-images-idx3", np.zeros((7, 28, 28), "f4"), "holds float32"),
        ("t10k-images-idx3", np.zeros((0, 28, 28), "u1"), r"shape \(0, 28, 28\)"),
        ("t10k-images-idx3", np.zeros(7, "u1"), r"of shape \(7,\)"),
    ],
)
def test_images_and_labels_of_another_form_are_named(own_folder, name, values, message):
    file = own_folder / "mnist" / f"{name}-ubyte.gz"
    file.write_bytes(gzip.compress(av_mnist_files.idx(values)))
    with pytest.raises(DataFileError, match=rf"{name}-ubyte\.gz .*{message}"):
        read_av_mnist(own_folder)


def test_damaged_files_are_named(own_folder):
    for path in own_folder.rglob("*.gz"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        with pytest.raises(DataFileError, match=f"{path.name} is a damaged gzip file"):
            read_av_mnist(own_folder)
        path.write_bytes(whole)


def test_too_few_images_or_recordings_are_named(tmp_path):
    av_mnist_files.write(tmp_path / "images", train=11, speakers=("ann",))
    with pytest.raises(DataFileError, match="has 11 images, at least 12 are needed"):
        read_av_mnist(tmp_path / "images")
    av_mnist_files.write(tmp_path / "recordings", count=10)
    with pytest.raises(DataFileError, match=r"0 to 9 of each .* those for training begin at 10"):
        read_av_mnist(tmp_path / "recordings")
