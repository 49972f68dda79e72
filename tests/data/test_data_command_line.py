"""`python -m sft_jax.data`, called in process, as a new user calls it on files in the true form."""

import json
import pickle

import av_mnist_files
import h5py
import hapt_texts
import npz_examples
import numpy as np
import physionet_archives
import pytest
import sentiment_pickles
import vggsound_hdf5

from sft_jax.data.__main__ import main
from sft_jax.data.card import Card

COUNTS = {"train": 4, "valid": 2, "test": 2}
FEW_PAIRS = ["train_pairs=20", "valid_pairs=2", "test_pairs=5"]


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with raw files of all kinds."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "cmu-mosi").mkdir()
    sentiment_pickles.write(folder / "cmu-mosi" / "mosi_data.pkl", "mosi", "mult_aligned", COUNTS)
    sentiment_pickles.write(folder / "aligned_50.pkl", "mosi", "mmsa_aligned", COUNTS)
    vggsound_hdf5.write(folder / "vgg", train=6, test=3)
    npz_examples.write(folder / "npz", train=8, valid=3, test=3)
    av_mnist_files.write(folder / "av", test=5)
    hapt_texts.write(folder / "hapt")
    physionet_archives.write(folder / "icu", stays=9)
    (folder / "two").mkdir()
    for name in ("manifest.csv", "vgg_train.h5py"):
        (folder / "two" / name).touch()
    return folder


def _error(*arguments):
    """The message with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, str)  # The exit status is 1, and this is printed.
    return ended.value.code


def _output(capsys, *arguments):
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def _assert_readable(text):
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_datasets_are_listed_with_whole_addresses(capsys):
    text = _output(capsys, "list")
    _assert_readable(text)
    for part in (
        "\nvggsound    Features of VGGSound",
        "https://github.com/yaohungt/Multimodal-Transformer",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "configs/npz_folder.py",
        "seglearn",
    ):
        assert part in text


def test_the_fields_of_a_dataset_are_explained(capsys):
    text = _output(capsys, "list", "vggsound")
    assert "valid_share: Share of the training file for validation" in text


@pytest.mark.parametrize("command", ["list", "prepare", "inspect", "validate"])
def test_every_command_has_help_with_examples(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "python -m sft_jax.data prepare mosei manual_dir=raw" in text
    assert "npz_folder" in text


@pytest.mark.parametrize(
    ("path", "arguments", "parts"),
    [
        (
            "cmu-mosi/mosi_data.pkl",
            [],
            ["cmu_mosi, mult_aligned: regression\n4 train, 2 valid, 2 test examples", " x 300"],
        ),
        ("cmu-mosi", [], ["cmu_mosi, mult_aligned: regression", "no known release"]),
        ("aligned_50.pkl", ["--dataset=mosi"], ["cmu_mosi, mmsa_aligned", " right ", " x 768"]),
        ("vgg", [], ["vggsound3: single_label\n3 train, 3 valid, 3 test examples", "1200 x 128"]),
        ("vgg/vgg_test.h5py", [], ["vggsound3: single_label\n3 train", "vgg_train.h5py"]),
        ("npz", [], ["npz_folder: single_label\n8 train, 3 valid", "28 x 28 x 1", "circle"]),
        ("npz/manifest.csv", [], ["npz_folder: single_label\n8 train, 3 valid"]),
        ("hapt", ["window_seconds=6"], ["hapt, tagging_window_6s_stride_5s: multi_label\n"]),
        ("icu", [], ["physionet2012, sets_a_b_c: single_label\n8 train, 1 valid, 18 test", "died"]),
        ("icu/set-b.tar.gz", [], ["physionet2012, sets_a_b_c", "events, 23 ids"]),
        ("av", FEW_PAIRS, ["av_mnist, ", "\n20 train, 2 valid, 5 test", "64 x 32 x 1"]),
    ],
)
def test_raw_files_are_inspected(raw, capsys, path, arguments, parts):
    text = _output(capsys, "inspect", raw / path, *arguments)
    _assert_readable(text)
    for part in [*parts, "sha256"]:
        assert part in text


def test_a_prepared_dataset_is_inspected_and_saved_as_json(raw, tmp_path, capsys):
    fields = [f"manual_dir={raw / 'cmu-mosi'}", f"data_dir={tmp_path}", "variant=mult_aligned"]
    # A field of the config is also understood as error messages call it.
    text = _output(capsys, "prepare", "mosi", "data.modalities=text,audio", *fields)
    assert f"prepared in {tmp_path}" in text
    file = tmp_path / "new" / "card.json"
    assert _output(capsys, "inspect", "mosi", *fields, "--json", file) in text
    assert Card.load(file).dataset == "cmu_mosi"
    assert _output(capsys, "inspect", file) in text
    printed = json.loads(_output(capsys, "inspect", file, "--json", "-"))
    assert printed == json.loads(file.read_text())


def test_numbers_that_are_not_finite_are_a_warning(raw, tmp_path, capsys):
    values = pickle.loads((raw / "cmu-mosi" / "mosi_data.pkl").read_bytes())
    values["valid"]["vision"][0, -1, 0] = np.nan
    file = tmp_path / "mosi.pkl"
    file.write_bytes(pickle.dumps(values))
    text = _output(capsys, "validate", file)
    assert "warning: valid: vision holds 1 nan; policy: zero" in text
    assert "all 8 examples can be read, 5 warnings" in text
    assert "to prepare it" not in text

    vggsound_hdf5.write(tmp_path, train=6, test=3)
    with h5py.File(tmp_path / "vgg_train.h5py", "a") as opened:
        opened["rgb"][:, 3, 7] = np.inf
    text = _output(capsys, "validate", tmp_path / "vgg_train.h5py")
    assert "warning: train: rgb holds 3 inf; policy: error" in text
    assert "say what becomes of numbers that are not finite" in text
    assert "all 9 examples can be read, 2 warnings" in text


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_an_unreadable_file_is_explained(raw, tmp_path):
    good = (raw / "cmu-mosi" / "mosi_data.pkl").read_bytes()
    file = tmp_path / "mosi_data.pkl"
    file.write_bytes(good[: len(good) // 2])
    assert f"{file} is not a whole pickle of data" in _error("validate", file)

    victim = tmp_path / "victim"
    file.write_bytes(pickle.dumps({"train": _Hostile(str(victim))}))
    assert "nothing in it was run" in _error("validate", file)
    assert not victim.exists()

    values = pickle.loads(good)
    values["train"]["labels"][1] = 7
    values["test"]["labels"][0] = np.nan
    file.write_bytes(pickle.dumps(values))
    message = _error("validate", file)
    assert "train/labels: example 1 has label 7, expected a number from -3 to 3" in message
    assert "test/labels: example 0 has label nan" in message

    train, _ = vggsound_hdf5.write(tmp_path / "vgg", train=6, test=3)
    train.write_bytes(train.read_bytes()[:100_000])
    assert f"{train} is damaged, cut short or no HDF5 file" in _error("validate", tmp_path / "vgg")


def test_faults_of_a_folder_are_listed(tmp_path):
    npz_examples.write(tmp_path, train=4, valid=3, test=3)
    (tmp_path / "train" / "000.npz").write_bytes(b"no zip file")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("valid,star", "valid,comet"))
    message = _error("validate", tmp_path)
    assert "train/000.npz: it cannot be read as a .npz file" in message
    assert "(valid): label 'comet' is not one of circle, square, star" in message


def test_a_late_fault_names_the_file(tmp_path):
    """A fault that shows when values are read does not know of files."""
    npz_examples.write(tmp_path, train=4, valid=3, test=3)
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    rows = [f"{line},{i // 2}" for i, line in enumerate(lines[1:])]
    (tmp_path / "manifest.csv").write_text("\n".join([f"{lines[0]},id", *rows]))
    message = _error("validate", tmp_path)
    assert str(tmp_path) in message
    assert "id '0'" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["inspect", "{raw}/aligned_50.pkl"],
            "can't determine the dataset of {raw}/aligned_50.pkl: name it with --dataset NAME, one",
        ),
        (["inspect", "{raw}/two"], "{raw}/two may be of vggsound or npz_folder: name it with --d"),
        (["inspect", "{raw}"], "can't determine the dataset of {raw}: name it with --dataset"),
        (["inspect", "{raw}/vgg", "--dataset=mosei"], "{raw}/vgg is a folder with 0 pickles"),
        (["inspect", "nothing"], "no file or folder nothing, and no dataset of that name, only w"),
        (["validate", "mosei"], "no file or folder mosei, and the dataset of that name is not a"),
        (["inspect", "mosei", "data_dir={raw}"], "mosei has not been prepared in {raw}"),
        (["prepare", "mosei", "data_dir={raw}"], "name it with data.manual_dir=FOLDER. It takes m"),
        (["prepare", "npz_folder"], "name the one with manifest.csv"),
        (["prepare", "tfds"], "data.builder must name a dataset"),
        (["prepare", "mosei", "raw"], "'raw' is not FIELD=VALUE, such as manual_dir=raw"),
        (["prepare", "mosei", "manualdir=raw"], "data.manualdir: unknown key; did you mean 'man"),
        (["prepare", "av_mnist", "train_pairs=x"], "data.train_pairs: Input should be a valid int"),
    ],
)
def test_wrong_arguments_are_one_clear_message(raw, arguments, message):
    error = _error(*(argument.format(raw=raw) for argument in arguments))
    assert message.format(raw=raw) in error
    assert len(error.splitlines()) <= 2


@pytest.mark.parametrize("arguments", [["list"], ["prepare"], ["inspect", "raw", "--dataset"]])
def test_an_unknown_dataset_is_named(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "npz_foldr"])
    assert ended.value.code == 2
    assert "did you mean 'npz_folder'? allowed here: av_mnist" in capsys.readouterr().err


def test_a_missing_tfds_dataset_is_named_without_others(tmp_path):
    arguments = ["builder=no_such", "modalities=image", f"data_dir={tmp_path}"]
    message = _error("prepare", "tfds", *arguments)
    assert "'no_such' can't be opened" in message
    assert len(message) < 300


def test_another_json_file_is_no_card(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_text('{"task": "single_label"}')
    assert f"{file} holds no data card: KeyError('class_names')" in _error("inspect", file)
