import numpy as np
import pytest

from sft_jax.data.sets.av_mnist.log_mel import log_mel, mel_filters

RATE = 8000


def _tone(frequency, samples=8320):
    return np.sin(2 * np.pi * frequency / RATE * np.arange(samples))


def _centres(bands=32):
    """Centres of the bands in Hz, from HTK's natural logarithm of the same scale."""
    mels = np.linspace(0, 1127.01048 * np.log(1 + 4000 / 700), bands + 2)[1:-1]
    return 700 * (np.exp(mels / 1127.01048) - 1)


def test_the_default_window_has_64_frames_of_32_bands():
    values = log_mel(np.zeros((2, 3, 8320)), sample_rate=RATE)
    assert values.shape == (2, 3, 64, 32)
    assert values.dtype == np.float32


def test_what_is_left_over_at_the_end_is_dropped():
    wave = np.random.default_rng(0).normal(size=1000)
    values = log_mel(wave, sample_rate=RATE)
    assert len(values) == 6
    np.testing.assert_array_equal(values, log_mel(wave[:896], sample_rate=RATE))
    np.testing.assert_allclose(values[3:], log_mel(wave[384:], sample_rate=RATE), atol=1e-5)


@pytest.mark.parametrize("band", [2, 9, 17, 25, 31])
def test_a_tone_peaks_in_the_band_around_it(band):
    values = log_mel(_tone(_centres()[band]), sample_rate=RATE)
    assert (values.argmax(axis=1) == band).all()
    # It is one of 20 log10 more when it is ten times as loud.
    louder = log_mel(10 * _tone(_centres()[band]), sample_rate=RATE)
    np.testing.assert_allclose(louder[:, band] - values[:, band], np.log(100), rtol=1e-4)


def test_frames_follow_the_sound_in_time():
    wave = np.concatenate([np.zeros(4096), _tone(1000, 4224)])
    loud = log_mel(wave, sample_rate=RATE).max(axis=1) > -5
    np.testing.assert_array_equal(loud, np.arange(64) >= 31)


def test_white_noise_has_power_one_at_every_frequency():
    noise = np.random.default_rng(0).normal(size=(64, 8320))
    power = np.exp(log_mel(noise, sample_rate=RATE)).mean(axis=(0, 1))
    np.testing.assert_allclose(power, mel_filters(32, 256, RATE).sum(axis=0), rtol=0.05)


def test_silence_is_at_the_floor():
    values = log_mel(np.zeros(512), sample_rate=RATE, floor=0.25)
    np.testing.assert_allclose(values, np.log(0.25), rtol=1e-6)


def test_filters_are_triangles_that_add_up_to_one():
    filters = mel_filters(8, 4096, RATE)
    frequencies = np.arange(2049) * RATE / 4096
    centres = _centres(8)
    np.testing.assert_allclose(frequencies[filters.argmax(axis=0)], centres, atol=2)
    between = (frequencies > centres[0]) & (frequencies < centres[-1])
    np.testing.assert_allclose(filters[between].sum(axis=1), 1)
    assert (mel_filters(32, 256, RATE).max(axis=0) > 0.7).all()
