import numpy as np
import pytest

from sft_jax.data.sets.av_mnist.noisy_speech import choose, mix, pink_noise

WINDOW = 8320
VOICES = [np.int16(200 * np.sin(f * np.arange(n))) for f, n in ((0.3, 700), (0.7, 9000))]
SPEECH = np.arange(1, 2001, dtype=np.int16)


def _rng(seed=0):
    return np.random.default_rng(seed)


def _power(values):
    return np.mean(values**2)


@pytest.mark.parametrize("snr_db", [-14.0, 0.0, 6.0])
@pytest.mark.parametrize("length", [2000, 8320, 20000])
def test_powers_are_those_of_the_ratio_and_halves(snr_db, length):
    noisy = mix(_rng(), np.arange(length, dtype=np.int16), VOICES, snr_db, WINDOW)
    assert _power(noisy.babble) == pytest.approx(0.5)
    assert _power(noisy.pink) == pytest.approx(0.5)
    assert _power(noisy.speech[noisy.start : noisy.stop]) == pytest.approx(10 ** (snr_db / 10))


def test_short_speech_lies_whole_anywhere_in_the_window():
    starts = []
    for seed in range(200):
        noisy = mix(_rng(seed), SPEECH, VOICES, 0.0, WINDOW)
        assert 0 <= noisy.start <= WINDOW - len(SPEECH)
        assert noisy.stop == noisy.start + len(SPEECH)
        assert not noisy.speech[: noisy.start].any()
        assert not noisy.speech[noisy.stop :].any()
        piece = noisy.speech[noisy.start : noisy.stop]
        np.testing.assert_allclose(piece / piece[0], SPEECH)
        starts.append(noisy.start)
    assert np.histogram(starts, 4, (0, WINDOW - len(SPEECH)))[0].min() > 30


def test_a_window_as_long_as_the_speech_holds_it():
    noisy = mix(_rng(), SPEECH, VOICES, 0.0, len(SPEECH))
    assert (noisy.start, noisy.stop) == (0, 2000)
    np.testing.assert_allclose(noisy.speech / noisy.speech[0], SPEECH)


def test_of_long_speech_a_piece_is_taken_anywhere():
    firsts = []
    for seed in range(200):
        noisy = mix(_rng(seed), SPEECH, VOICES, 0.0, 1500)
        assert (noisy.start, noisy.stop) == (0, 1500)
        step = noisy.speech[1] - noisy.speech[0]
        np.testing.assert_allclose(np.diff(noisy.speech), step)
        firsts.append(round(noisy.speech[0] / step))
    assert 1 <= min(firsts) < 50
    assert 451 < max(firsts) <= 501


def test_babble_is_the_voices_backwards_around_and_around():
    voice = np.int16([1, 2, 3, 10])
    for seed in range(10):
        babble = mix(_rng(seed), SPEECH, [voice], 0.0, 22).babble
        turned = np.rint(babble / np.abs(babble).min()).astype(int).tolist()
        assert any(
            turned == np.resize(np.roll([10, 3, 2, 1], shift), 22).tolist() for shift in range(4)
        )


def test_every_voice_is_equally_loud():
    quiet, loud = np.int16(20 * np.sin(0.1 * np.arange(WINDOW))), np.int16([9000, -9000])
    babble = mix(_rng(), SPEECH, [quiet, loud], 0.0, WINDOW).babble
    spectrum = np.abs(np.fft.rfft(babble)) ** 2
    assert spectrum[-1] == pytest.approx(2 * spectrum[:-1].sum(), rel=0.1)


def test_a_silent_piece_stays_silent():
    noisy = mix(_rng(), np.zeros(100, np.int16), [np.zeros(9, np.int16)], 0.0, WINDOW)
    assert not noisy.speech.any()
    assert not noisy.babble.any()


def test_pink_noise_has_as_much_power_in_every_octave():
    power = np.mean([np.abs(np.fft.rfft(pink_noise(_rng(i), WINDOW))) ** 2 for i in range(40)], 0)
    octaves = [power[2**i : 2 ** (i + 1)].sum() for i in range(4, 12)]
    np.testing.assert_allclose(octaves, np.mean(octaves), rtol=0.15)
    assert power[0] == pytest.approx(0)
    noise = pink_noise(_rng(), 1001)
    assert noise.shape == (1001,)


def test_the_same_generator_makes_the_same():
    for one, other in zip(
        mix(_rng(3), SPEECH, VOICES, 1.0, WINDOW),
        mix(_rng(3), SPEECH, VOICES, 1.0, WINDOW),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_every_number_is_chosen_equally_often():
    rng = _rng()
    counts = np.bincount([choose(rng, 5) for _ in range(2000)])
    assert len(counts) == 5
    assert counts.min() > 330
