# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from spatial_core.errors import InputError
from spatial_core.sim import kernels
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.kernels import FILTER_PHASES, band_filters
from spatial_core.sim.rir import PyroomSimulator, images_reference
from spatial_core.sim.rooms import BAND_EDGES_HZ, RoomConfig, RoomSpec, sample_room

ROOM = RoomSpec((4.1, 3.3, 2.6), (0.5, 0.6, 0.55, 0.45, 0.7, 0.62))
HARD = RoomSpec(
    (5.2, 4.1, 2.9),
    (
        "brickwork",
        "gypsum_board",
        "plasterboard",
        "curtains_velvet",
        "carpet_cotton",
        "plasterboard",
    ),
)
SOURCE = np.array([1.0, 2.2, 1.3])
MICS = np.array([[2.5, 1.1, 1.2], [2.55, 1.12, 1.25], [2.46, 1.07, 1.16]])
TAPS = 1000


def relative_error_db(rirs: np.ndarray, reference: np.ndarray, low: float, high: float) -> float:
    """Energy of the difference over that of the reference, both within low..high Hz."""
    frequency = np.fft.rfftfreq(rirs.shape[-1], 1 / 16000)
    band = (frequency >= low) & (frequency < high)
    a, b = np.fft.rfft(rirs)[..., band], np.fft.rfft(reference)[..., band]
    return float(10 * np.log10(np.sum(np.abs(a - b) ** 2) / np.sum(np.abs(b) ** 2)))


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    simulator = FastSimulator(taps=TAPS, images="full", decay_db=np.inf)
    return simulator.simulate(ROOM, SOURCE, MICS, seed=0)


def test_full_sum_equals_the_exact_image_sum(full: np.ndarray) -> None:
    lead = FastSimulator().lead
    exact = np.stack([images_reference(ROOM, SOURCE, mic, TAPS, lead) for mic in MICS])
    # The last filter length is left out: there the two cut differently.
    assert relative_error_db(full[:, :960], exact[:, :960], 0, 4000) < -60
    assert relative_error_db(full[:, :960], exact[:, :960], 0, 7000) < -55


def test_full_sum_equals_pyroomacoustics(full: np.ndarray) -> None:
    theirs = PyroomSimulator(taps=TAPS + 100, max_order=30)
    shift = theirs.lead - FastSimulator().lead
    reference = theirs.simulate(ROOM, SOURCE, MICS, seed=0)[:, shift : shift + TAPS]
    assert relative_error_db(full[:, :960], reference[:, :960], 50, 7000) < -50


def test_images_up_to_an_order_are_those_of_pyroomacoustics() -> None:
    ours = FastSimulator(taps=2000, images="full", max_order=3)
    theirs = PyroomSimulator(taps=2100, max_order=3)
    shift = theirs.lead - ours.lead
    reference = theirs.simulate(ROOM, SOURCE, MICS, seed=0)[:, shift : shift + 2000]
    found = ours.simulate(ROOM, SOURCE, MICS, seed=0)
    assert relative_error_db(found, reference, 50, 7000) < -52
    more = FastSimulator(taps=2000, images="full", max_order=4).simulate(ROOM, SOURCE, MICS, 0)
    assert relative_error_db(more, reference, 50, 7000) > -20
    # Walls that reflect all bands alike are summed with the sum of the bands' filters.
    tables = kernels.band_filters(BAND_EDGES_HZ, 16000), kernels.band_filters((), 16000)
    np.testing.assert_allclose(tables[0].sum(axis=1), tables[1][:, 0], atol=1e-6)
    with pytest.raises(InputError, match="max_order"):
        FastSimulator(max_order=-1)


def test_four_bands_follow_the_octave_filterbank_of_pyroomacoustics() -> None:
    ours = FastSimulator(taps=3400, images="full", decay_db=np.inf)
    theirs = PyroomSimulator(taps=3500, max_order=40)
    a = ours.simulate(HARD, SOURCE, MICS, 0)
    shift = theirs.lead - ours.lead
    b = theirs.simulate(HARD, SOURCE, MICS, 0)[:, shift : shift + 3400]
    # Below 707 Hz three octaves share one absorption and the filters are too short to part the bands
    # sharply: there only the first 50 ms, mostly direct sound, agree.
    for centre in (250, 500, 1000, 2000, 4000):
        band = butter(4, (centre / 2**0.5, centre * 2**0.5), "band", fs=16000, output="sos")
        x, y = sosfiltfilt(band, a), sosfiltfilt(band, b)
        parts = [slice(0, 800)] + ([slice(800, 3200)] if centre >= 2000 else [])
        for part in parts:
            ratio = np.sum(x[:, part] ** 2) / np.sum(y[:, part] ** 2)
            assert abs(10 * np.log10(ratio)) < 1.5, (centre, part, ratio)


def test_direct_path_delay_and_gain() -> None:
    absorbing = RoomSpec((6.0, 5.0, 3.0), (1.0,) * 6)
    simulator = FastSimulator(taps=512)
    rng = np.random.default_rng(0)
    frequency = np.fft.rfftfreq(512, 1 / 16000)
    band = (frequency > 200) & (frequency < 6000)
    for _ in range(20):
        source, mic = rng.uniform(0.3, 2.7, (2, 3))
        distance = np.linalg.norm(source - mic)
        spectrum = np.fft.rfft(simulator.simulate(absorbing, source, mic[None], 0)[0])[band]
        phase = np.unwrap(np.angle(spectrum))
        slope = np.polyfit(frequency[band], phase, 1)[0]
        delay = -slope / (2 * np.pi) * 16000
        assert delay == pytest.approx(distance / 343.0 * 16000 + simulator.lead, abs=0.02)
        assert np.abs(spectrum) == pytest.approx(1 / distance, rel=2e-3)


def test_band_filters_add_up_to_one_fractional_delay() -> None:
    filters = band_filters(BAND_EDGES_HZ, 16000).sum(axis=1)
    frequency = np.arange(0, 7000, 100)
    times = np.arange(filters.shape[1])
    for phase in (0, 17, FILTER_PHASES // 2, FILTER_PHASES):
        wave = np.exp(-2j * np.pi * frequency[:, None] * times / 16000)
        ideal = np.exp(
            -2j * np.pi * frequency * (FastSimulator().lead + phase / FILTER_PHASES) / 16000
        )
        assert np.max(np.abs(wave @ filters[phase] - ideal)) < 2e-3


def test_roulette_keeps_energy_and_decay() -> None:
    rng = np.random.default_rng(5)
    rooms = [sample_room(rng, RoomConfig(min_rt60=0.3, max_rt60=0.8)) for _ in range(6)]
    high_pass = butter(2, 100, "high", fs=16000, output="sos")
    late = []
    for n, room in enumerate(rooms):
        source, mics = np.array([0.8, 0.9, 1.1]), MICS[:, :] * 0.6
        full = FastSimulator(images="full").simulate(room, source, mics, n)
        thin = FastSimulator().simulate(room, source, mics, n)
        full, thin = sosfiltfilt(high_pass, full), sosfiltfilt(high_pass, thin)
        assert 10 * np.log10(np.sum(thin**2) / np.sum(full**2)) == pytest.approx(0, abs=0.2)
        # Direct sound and first reflections are never thinned.
        early = slice(0, int(np.abs(thin[0]).argmax()) + 80)
        assert np.max(np.abs(thin[:, early] - full[:, early])) < 0.02 * np.abs(full).max()
        late.append(10 * np.log10(np.sum(thin[:, 1600:] ** 2) / np.sum(full[:, 1600:] ** 2)))
    assert np.mean(late) == pytest.approx(0, abs=1.0)


def test_result_depends_on_the_room_and_its_seed_only() -> None:
    rng = np.random.default_rng(3)
    rooms = [sample_room(rng) for _ in range(5)]
    sources = np.tile(SOURCE, (5, 1)) * 0.8
    mics = np.tile(MICS, (5, 1, 1)) * 0.8
    mask = np.array([[True, True, True]] * 4 + [[True, False, True]])
    seeds = [7, 8, 9, 10, 2**63 + 11]
    one = FastSimulator(threads=1).simulate_batch(rooms, sources, mics, mask, seeds)
    two = FastSimulator(threads=2).simulate_batch(rooms, sources, mics, mask, seeds)
    np.testing.assert_array_equal(one, two)
    back = FastSimulator(threads=2).simulate_batch(
        rooms[::-1], sources[::-1], mics[::-1], mask[::-1], seeds[::-1]
    )
    np.testing.assert_array_equal(one, back[::-1])
    alone = FastSimulator().simulate(rooms[2], sources[2], mics[2], 9)
    np.testing.assert_array_equal(one[2], alone)
    assert not one[4, 1].any() and one[4, 2].any()
    np.testing.assert_array_equal(
        one[4, [0, 2]], FastSimulator().simulate(rooms[4], sources[4], mics[4, [0, 2]], seeds[4])
    )
    assert not np.array_equal(one[2], FastSimulator().simulate(rooms[2], sources[2], mics[2], 12))


def test_two_threads_at_once_get_the_same_answer() -> None:
    simulator = FastSimulator(threads=2)
    arguments = (
        [HARD] * 8,
        np.tile(SOURCE, (8, 1)),
        np.tile(MICS, (8, 1, 1)),
        np.ones((8, 3), bool),
    )
    expected = simulator.simulate_batch(*arguments, range(8))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: simulator.simulate_batch(*arguments, range(8)), range(8)))
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    cache = getattr(caching, "CacheImpl", None) or caching._CacheImpl  # the older name
    monkeypatch.setattr(cache, "_locator_classes", [])
    double = kernels.compiled(fastmath=True)(lambda x: 2 * x)
    assert double(4) == 8


@pytest.mark.parametrize("simulator", [FastSimulator(), JaxSimulator()])
def test_impossible_positions_are_refused(simulator: FastSimulator | JaxSimulator) -> None:
    with pytest.raises(InputError, match=r"source .* not inside"):
        simulator.simulate(ROOM, np.array([9.0, 1.0, 1.0]), MICS, 0)
    with pytest.raises(InputError, match=r"microphone .* not inside"):
        simulator.simulate(ROOM, SOURCE, MICS * 1000, 0)
    with pytest.raises(InputError, match="less than 1 mm"):
        simulator.simulate(ROOM, MICS[0], MICS, 0)
    with pytest.raises(InputError, match="same number of each"):
        simulator.simulate_batch([ROOM], SOURCE[None], MICS[None], np.ones((1, 3), bool), [1, 2])
    with pytest.raises(InputError, match="no microphone"):
        simulator.simulate_batch([ROOM], SOURCE[None], MICS[None], np.zeros((1, 3), bool), [1])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="images="):
        FastSimulator(images="all")
    with pytest.raises(InputError, match="taps="):
        FastSimulator(taps=10)
    with pytest.raises(InputError, match="one absorption"):
        images_reference(HARD, SOURCE, MICS[0], 100, 0)


def test_pyroomacoustics_batch_masks_channels_and_leaves_its_settings_alone() -> None:
    import pyroomacoustics as pra

    before = pra.constants.get("rir_hpf_enable")
    simulator = PyroomSimulator(taps=800, max_order=3)
    mask = np.array([[True, False, True]])
    rirs = simulator.simulate_batch([ROOM], SOURCE[None], MICS[None], mask, [0])
    assert rirs.shape == (1, 3, 800) and not rirs[0, 1].any()
    np.testing.assert_array_equal(
        rirs[0, [0, 2]], simulator.simulate(ROOM, SOURCE, MICS[[0, 2]], 0)
    )
    peak = np.abs(rirs[0, 0]).argmax()
    distance = np.linalg.norm(SOURCE - MICS[0])
    assert abs(peak - simulator.lead - distance / 343.0 * 16000) <= 1
    assert pra.constants.get("rir_hpf_enable") == before
