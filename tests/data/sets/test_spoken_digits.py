import gzip
import io
import tarfile

import numpy as np
import pytest
from av_mnist_files import ARCHIVE, archive, recordings, wav

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.av_mnist.spoken_digits import find_spoken_digits, read_spoken_digits

FILES = recordings(("ann", "bob"), 2)
TONE = np.arange(100)


@pytest.fixture
def read(tmp_path):
    """Reads files out of an archive."""

    def read_files(files, parent="release/recordings"):
        path = tmp_path / ARCHIVE
        path.write_bytes(archive(files, parent))
        return read_spoken_digits(path)

    return read_files


def test_all_recordings_come_in_order_with_their_samples(read):
    actual = read(dict(reversed(FILES.items())) | {"LICENSE": b"", "._0_ann_0.wav": b"mac"})
    assert [f"{r.name}.wav" for r in actual] == sorted(FILES)
    for recording in actual:
        assert recording.samples.dtype == np.int16
        assert FILES[f"{recording.name}.wav"].endswith(recording.samples.tobytes())
    assert (actual[3].digit, actual[3].speaker, actual[3].take) == (0, "bob", 1)


def test_takes_are_sorted_as_numbers(read):
    actual = read(recordings(("ann",), 12))
    assert [r.take for r in actual] == 10 * list(range(12))


def test_a_folder_gives_the_same_as_its_archive(read, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "README").write_text("not a recording")
    for one, other in zip(read_spoken_digits(folder), read(FILES), strict=True):
        assert one[:3] == other[:3]
        np.testing.assert_array_equal(one.samples, other.samples)


def test_only_the_folder_of_recordings_is_read(read, tmp_path):
    with pytest.raises(DataFileError, match=r"has no recordings recordings/DIGIT_SPEAKER_INDEX"):
        read(FILES, "release/others")
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_paths_in_an_archive_are_never_written_to(read, tmp_path):
    outside = tmp_path / "outside" / "recordings"
    read(FILES, str(outside))
    read(FILES, "../outside/recordings")
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_they_are_found_at_any_depth(tmp_path):
    assert find_spoken_digits(tmp_path) is None
    deep = tmp_path / "a" / "b"
    (deep / "recordings").mkdir(parents=True)
    (deep / "recordings" / "talk.wav").write_bytes(b"of something else")
    assert find_spoken_digits(tmp_path) is None
    (deep / f"my-{ARCHIVE}").touch()
    assert find_spoken_digits(tmp_path) == deep / f"my-{ARCHIVE}"
    (deep / "recordings" / "0_ann_0.wav").touch()
    for folder in (tmp_path, deep, deep / "recordings"):
        assert find_spoken_digits(folder) == deep / "recordings"


def test_a_name_that_is_not_a_recording_is_told(read):
    for name in ("0_ann.wav", "10_ann_0.wav", "x_ann_0.wav", "0_ann_01.wav", "0_ann_-1.wav"):
        with pytest.raises(DataFileError, match=f"{name} is not called DIGIT_SPEAKER_INDEX"):
            read({**FILES, name: FILES["0_ann_0.wav"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav(TONE, rate=16000), "1 channels of 16 bits at 16000 Hz, expected 1 .* 8000 Hz"),
        (wav(TONE, width=4), "1 channels of 32 bits at 8000 Hz"),
        (wav(TONE, channels=2), "2 channels of 16 bits"),
        (wav(0 * TONE), "no sound, all of its 100 samples are 0"),
        (wav([]), "no sound, all of its 0 samples"),
        (wav(TONE)[:-20], "is cut short: 90 samples, expected 100"),
        (wav(TONE)[:30], "is not a PCM wav file"),
        (wav(TONE).replace(b"\x01\0\x01\0", b"\x03\0\x01\0", 1), "not a PCM wav file: unknown"),
        (b"", "is not a PCM wav file: it ends early"),
        (b"OggS" + bytes(60), "is not a PCM wav file"),
    ],
)
def test_a_recording_of_another_form_is_told(read, content, message):
    with pytest.raises(DataFileError, match=rf"{ARCHIVE}: 3_ann_1\.wav.*{message}"):
        read({**FILES, "3_ann_1.wav": content})


def test_missing_recordings_are_told(read):
    some = {name: content for name, content in FILES.items() if not name.startswith("7_bob")}
    with pytest.raises(DataFileError, match=r"lacks 2 of 40 recordings, such as 7_bob_0\.wav"):
        read(some)


def test_a_recording_may_not_come_twice(tmp_path):
    content = gzip.decompress(archive(FILES, "a/recordings"))
    other = gzip.decompress(archive({"1_bob_1.wav": wav(TONE)}, "b/recordings"))
    end = content.rindex(FILES["9_bob_1.wav"][-50:])
    path = tmp_path / ARCHIVE
    path.write_bytes(gzip.compress(content[: 512 * (1 + (end + 50) // 512)] + other))
    with pytest.raises(DataFileError, match=r"has the recording 1_bob_1\.wav twice"):
        read_spoken_digits(path)


def test_a_link_is_not_followed(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        link = tarfile.TarInfo("recordings/0_ann_0.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    path = tmp_path / ARCHIVE
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataFileError, match=r"recordings/0_ann_0\.wav is not a regular file"):
        read_spoken_digits(path)


def test_a_damaged_archive_is_told(tmp_path):
    path = tmp_path / ARCHIVE
    whole = archive(FILES)
    tar = gzip.decompress(whole)
    for content, message in (
        (whole[: len(whole) // 2], "damaged gzip file"),
        (gzip.compress(b"no archive" * 100), "damaged archive"),
        (gzip.compress(tar[: len(tar) // 2]), "damaged archive|lacks .* recordings"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataFileError, match=message):
            read_spoken_digits(path)
