# SPDX-License-Identifier: Apache-2.0
"""The JAX room simulator against pyroomacoustics and against sums in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pyroomacoustics as pra
import pytest
from scipy.signal import butter, sosfiltfilt

from spatial_core.audio.levels import c50
from spatial_core.errors import InputError
from spatial_core.sim import fractional
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.fractional import DelayFilter
from spatial_core.sim.images import BOX, SAMPLES_PER_METRE, delays, image_sources, pack, to_samples
from spatial_core.sim.jax_engine import JaxSimulator, _response, responses
from spatial_core.sim.jax_synthesis import pack_scenes
from spatial_core.sim.rir import PyroomSimulator, images_reference
from spatial_core.sim.rooms import BAND_EDGES_HZ, RoomConfig, RoomSpec, sample_room
from spatial_core.sim.scene import SceneConfig, sample_scene
from spatial_core.sim.synthesis import measured_rt60

ROOM = RoomSpec((4.1, 3.3, 2.6), (0.5, 0.6, 0.55, 0.45, 0.7, 0.62))
SOURCE = np.array([1.0, 2.2, 1.3])
MICS = np.array([[2.5, 1.1, 1.2], [2.55, 1.12, 1.25], [2.46, 1.07, 1.16]])
TAPS = 1000
EVERY = JaxSimulator(taps=TAPS, decay_db=np.inf, late_images=0)
HANN = DelayFilter(taps=81, window="hann")


def relative_error_db(rirs: np.ndarray, exact: np.ndarray, high: float = 8001.0) -> float:
    """Energy of the difference over that of the reference, both below `high` Hz.

    The last filter length is left out: there responses are cut differently.
    """
    rirs, exact = rirs[..., :-40].astype(np.float64), exact[..., :-40]
    band = np.fft.rfftfreq(rirs.shape[-1], 1 / 16000) < high
    a, b = np.fft.rfft(rirs)[..., band], np.fft.rfft(exact)[..., band]
    return float(10 * np.log10(np.sum(np.abs(a - b) ** 2) / np.sum(np.abs(b) ** 2)))


def random_room(rng: np.random.Generator, low: float = 0.1, high: float = 0.9) -> RoomSpec:
    """A room whose walls absorb alike at all frequencies."""
    x, y, z = rng.uniform((2.5, 2.5, 2.2), (8, 8, 4))
    return RoomSpec((x, y, z), tuple(rng.uniform(low, high, 6).tolist()))


def images_of(room: RoomSpec, source: np.ndarray, mic: np.ndarray, order: int, capacity: int):  # type: ignore[no-untyped-def]
    """Positions in metres [n, 3] and gains [n] that the engine sums, up to an order."""
    geometry = pack(
        [room], source[None], mic[None, None], np.ones((1, 1)), [0],
        reach=np.array([2.0 * order * max(room.dimensions) + 20]), capacity=capacity, max_order=order,
    )  # fmt: skip
    arrivals, _ = image_sources(jax.tree.map(lambda x: x[0], geometry), capacity, max_order=order)
    used = np.asarray(arrivals.gains[:, 0]) > 0
    whole, part = (np.asarray(x, np.float64).T[used] for x in arrivals.position)
    return (whole + part) / SAMPLES_PER_METRE, np.asarray(arrivals.gains)[used, 0]


@pytest.mark.parametrize("order", [0, 1, 3, 6])
def test_images_are_those_of_pyroomacoustics(order: int) -> None:
    rng = np.random.default_rng(order)
    for _ in range(3):
        room = random_room(rng)
        source, mic = (rng.uniform(0.2, np.array(room.dimensions) - 0.2) for _ in range(2))
        box = pra.ShoeBox(
            room.dimensions,
            fs=16000,
            materials={
                wall: pra.Material(a)
                for wall, a in zip(
                    ("west", "east", "south", "north", "floor", "ceiling"), room.materials
                )
            },
            max_order=order,
        )
        box.add_source(source)
        box.add_microphone(mic)
        box.image_source_model()
        theirs, gains = box.sources[0].images.T, box.sources[0].damping[0]
        positions, ours = images_of(room, source, mic, order, capacity=1024)
        assert len(positions) == len(theirs)
        apart = np.linalg.norm(positions[:, None] - theirs[None], axis=-1)
        match = apart.argmin(axis=1)
        assert sorted(match) == list(range(len(theirs)))
        assert apart.min(axis=1).max() < 1e-5  # pyroomacoustics' float32 at tens of metres
        np.testing.assert_allclose(ours, gains[match], rtol=1e-5)


def test_distances_keep_their_fraction_of_a_sample_however_far() -> None:
    rng = np.random.default_rng(0)
    places, mics = rng.uniform(-400, 400, (2000, 3)), rng.uniform(0, 5, (4, 3))
    split = to_samples(places)
    position = type(split)(split.whole.T, split.part.T)
    whole, fraction, _, vector = jax.jit(delays)(position, to_samples(mics))
    exact = np.linalg.norm(places[None] - mics[:, None], axis=-1) * SAMPLES_PER_METRE
    assert exact.max() > 25_000  # where float32 has steps of 2e-3 samples
    error = (np.asarray(whole) - exact) + np.asarray(fraction)
    assert np.abs(error).max() < 2e-6
    assert np.asarray(fraction).min() >= 0 and np.asarray(fraction).max() <= 1
    expected = (places[None] - mics[:, None]).transpose(2, 0, 1) * SAMPLES_PER_METRE
    np.testing.assert_allclose(vector, expected, rtol=1e-6, atol=1e-3)


def test_image_coordinates_are_good_to_a_hundred_thousandth_of_a_sample() -> None:
    room, source = RoomSpec((2.537, 2.613, 2.211), (0.1,) * 6), np.array([1.01, 0.77, 1.31])
    geometry = pack(
        [room], source[None], MICS[None] * 0.5, np.ones((1, 3)), [0],
        reach=np.array([150.0]), capacity=1 << 17,
    )  # fmt: skip
    one = jax.tree.map(lambda x: x[0], geometry)
    arrivals, _ = jax.jit(image_sources, static_argnums=1)(one, 1 << 17)
    whole, part = (np.asarray(x, np.float64) for x in arrivals.position)
    for axis, side in enumerate(room.dimensions):
        x = (whole[axis] + part[axis]) / SAMPLES_PER_METRE
        cell = np.floor(x / side)
        exact = np.where(
            cell % 2 == 1, (cell + 1) * side - source[axis], cell * side + source[axis]
        )
        assert np.abs(x - exact).max() * SAMPLES_PER_METRE < 1e-5
    assert np.abs(whole).max() > 3000


def test_nearest_images_are_chosen_and_the_rest_counted_out() -> None:
    room = RoomSpec((3.0, 4.0, 2.5), (0.2,) * 6)
    geometry = pack(
        [room], SOURCE[None], MICS[None], np.ones((1, 3)), [0],
        reach=np.array([60.0]), capacity=1024,
    )  # fmt: skip
    one = jax.tree.map(lambda x: x[0], geometry)
    arrivals, radius = image_sources(one, 1024)
    used = np.asarray(arrivals.gains[:, 0]) > 0
    k = np.arange(-40, 41)
    axes = [
        np.where(k % 2 == 1, (k + 1) * s - x, k * s + x) - c
        for s, x, c in zip(room.dimensions, SOURCE, MICS.mean(axis=0))
    ]
    squares = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    inside = np.sqrt(squares) * SAMPLES_PER_METRE < float(radius)
    assert used.sum() == inside.sum()
    assert 0.95 * 1024 < used.sum() <= 1024
    assert 2 * used.sum() < BOX * 1024


def windowed_sinc_sum(room: RoomSpec, source: np.ndarray, mic: np.ndarray) -> np.ndarray:
    """Float64 sum of the images with pyroomacoustics' delay filter evaluated exactly, [TAPS]."""
    beta = np.sqrt(1 - room.absorption[:, 0]).reshape(3, 2)
    out = np.zeros(TAPS + 100)
    counts = [int(TAPS / SAMPLES_PER_METRE / side) + 2 for side in room.dimensions]
    for cell in product(*(range(-n, n + 1) for n in counts)):
        place, gain = np.zeros(3), 1.0
        for axis, k in enumerate(cell):
            side = room.dimensions[axis]
            place[axis] = (k + 1) * side - source[axis] if k % 2 else k * side + source[axis]
            hits = (abs(k) + 1) // 2, abs(k) // 2
            at_zero, at_side = hits if k < 0 else hits[::-1]
            gain *= beta[axis, 0] ** at_zero * beta[axis, 1] ** at_side
        distance = np.linalg.norm(place - mic)
        delay = distance * SAMPLES_PER_METRE
        start = int(delay)
        if start < TAPS:
            taps = HANN.lowpass(np.array([delay - start]), 1.0)[0]
            out[start : start + 81] += gain / distance * taps
    return out[:TAPS]


def test_responses_with_the_same_delay_filter_equal_a_float64_sum() -> None:
    simulator = replace(EVERY, delay=HANN)
    rirs = simulator.simulate(ROOM, SOURCE, MICS, 0)
    exact = np.stack([windowed_sinc_sum(ROOM, SOURCE, mic) for mic in MICS])
    assert relative_error_db(rirs, exact) < -90


def test_responses_with_the_same_delay_filter_equal_pyroomacoustics() -> None:
    simulator = replace(EVERY, delay=HANN)
    theirs = PyroomSimulator(taps=TAPS, max_order=20)
    assert simulator.lead == theirs.lead
    rng = np.random.default_rng(1)
    before = pra.constants.get("sinc_lut_granularity")
    try:
        # By default it reads its filter from a table of 20 steps a sample: -58 dB by itself.
        pra.constants.set("sinc_lut_granularity", 200)
        for _ in range(3):
            room = random_room(rng, 0.4, 0.9)
            source, middle = (rng.uniform(0.4, np.array(room.dimensions) - 0.4) for _ in range(2))
            mics = middle + rng.uniform(-0.1, 0.1, (3, 3))
            ours = simulator.simulate(room, source, mics, 0)
            assert relative_error_db(ours, theirs.simulate(room, source, mics, 0)) < -60
    finally:
        pra.constants.set("sinc_lut_granularity", before)


def test_default_filter_equals_the_exact_image_sum_and_the_fast_simulator() -> None:
    rirs = EVERY.simulate(ROOM, SOURCE, MICS, 0)
    exact = np.stack([images_reference(ROOM, SOURCE, mic, TAPS, EVERY.lead) for mic in MICS])
    assert relative_error_db(rirs, exact, 4000) < -63
    assert relative_error_db(rirs, exact, 7000) < -57  # pyroomacoustics: -55
    fast = FastSimulator(taps=TAPS, images="full", decay_db=np.inf)
    # Its table has 128 steps a sample, interpolated.
    assert relative_error_db(rirs, fast.simulate(ROOM, SOURCE, MICS, 0)) < -85
    walls = ("brickwork", "gypsum_board", "plasterboard", "curtains_velvet", "carpet_cotton", "glass_window")  # fmt: skip
    bands = RoomSpec((5.2, 4.1, 2.9), walls)
    a, b = (simulator.simulate(bands, SOURCE, MICS, 0) for simulator in (EVERY, fast))
    assert relative_error_db(a, b) < -80


@pytest.mark.parametrize(
    ("delay", "high", "error"),
    [(DelayFilter(), 6500, 1e-3), (DelayFilter(taps=80, beta=8.0), 7200, 2e-4)],
)
def test_filters_delay_by_a_fraction_of_a_sample(
    delay: DelayFilter, high: int, error: float
) -> None:
    frequency = np.arange(0, high, 50)
    fraction = np.linspace(0, 1, 21)
    wave = np.exp(-2j * np.pi * frequency[:, None] * (np.arange(delay.taps) - delay.lead) / 16000)
    ideal = np.exp(-2j * np.pi * frequency[:, None] * fraction / 16000)
    assert np.abs(wave @ delay.lowpass(fraction, 1.0).T - ideal).max() < error


@pytest.mark.parametrize("delay", [DelayFilter(), HANN, DelayFilter(taps=63, beta=9.0)])
def test_polynomials_are_the_filters(delay: DelayFilter) -> None:
    table = fractional.polynomials(delay, BAND_EDGES_HZ, 16000)
    fraction = np.linspace(0, 1, 97)
    gains = np.array([0.9, 0.2, 0.7, 0.4], np.float32)
    rows = fractional.windows(
        jnp.asarray(fraction, jnp.float32)[None],
        jnp.ones((1, 97)),
        jnp.tile(gains, (97, 1)),
        table,
    )[0]
    low = [delay.lowpass(fraction, edge / 8000) for edge in (*BAND_EDGES_HZ, 8000)]
    bands = np.diff(np.stack(low), axis=0, prepend=0)
    assert np.abs(rows - np.einsum("b,bnt->nt", gains, bands)).max() < 4e-5


def test_direct_path_delay_and_gain() -> None:
    absorbing = RoomSpec((6.0, 5.0, 3.0), (1.0,) * 6)
    simulator = JaxSimulator(taps=512)
    rng = np.random.default_rng(0)
    frequency = np.fft.rfftfreq(512, 1 / 16000)
    band = (frequency > 200) & (frequency < 6000)
    for _ in range(20):
        source, mic = rng.uniform(0.3, 2.7, (2, 3))
        distance = np.linalg.norm(source - mic)
        spectrum = np.fft.rfft(simulator.simulate(absorbing, source, mic[None], 0)[0])[band]
        slope = np.polyfit(frequency[band], np.unwrap(np.angle(spectrum)), 1)[0]
        delay = -slope / (2 * np.pi) * 16000
        assert delay == pytest.approx(distance * SAMPLES_PER_METRE + simulator.lead, abs=0.02)
        assert np.abs(spectrum) == pytest.approx(1 / distance, rel=2e-3)


def test_adding_windows_by_products_equals_scattering() -> None:
    rng = np.random.default_rng(0)
    out = rng.standard_normal((3, 1001)).astype(np.float32)
    # Some begin before the start or too late to fit: both forms drop them.
    start = rng.integers(-50, 1050, (3, 400)).astype(np.int32)
    for taps in (32, 81):
        rows = rng.standard_normal((3, 400, taps)).astype(np.float32)
        expected = out.astype(np.float64)
        for m, i in product(range(3), range(400)):
            if 0 <= start[m, i] <= 1001 - taps:
                expected[m, start[m, i] : start[m, i] + taps] += rows[m, i]
        for form in ("scatter", "matmul"):
            total = fractional.add_windows(jnp.asarray(out), jnp.asarray(start), rows, form)
            np.testing.assert_allclose(total, expected, atol=1e-5)
    by_matmul = replace(EVERY, form="matmul").simulate(ROOM, SOURCE, MICS, 0)
    np.testing.assert_allclose(by_matmul, EVERY.simulate(ROOM, SOURCE, MICS, 0), atol=1e-6)


@pytest.mark.parametrize("form", ["scatter", "matmul"])
def test_all_rooms_at_once_equal_one_after_the_other(form: str) -> None:
    """Accelerators work on all rooms of a batch at once, which a CPU does not do by itself."""
    rng = np.random.default_rng(4)
    specs = [sample_scene(rng, SceneConfig(max_mics=3)) for _ in range(3)]
    simulator = JaxSimulator(
        taps=2000, max_images=512, late_images=256, displacement=0.05, form=form
    )
    rooms, _, plan = pack_scenes(simulator, specs, 3)
    one_by_one = responses(rooms, plan)
    at_once = jax.jit(jax.vmap(partial(_response, plan=plan)))(rooms)
    # Coordinates may round differently; 1e-5 samples are -90 dB at 8 kHz.
    np.testing.assert_allclose(at_once, one_by_one, atol=3e-5 * np.abs(one_by_one).max())


@pytest.mark.slow
def test_reverberation_and_clarity_are_those_of_pyroomacoustics() -> None:
    rng = np.random.default_rng(8)
    ours = JaxSimulator(taps=6000, decay_db=np.inf, max_images=1 << 16, late_images=0)
    model = JaxSimulator(taps=6000, decay_db=np.inf)
    theirs = PyroomSimulator(taps=6000, max_order=60)
    high_pass = butter(2, 100, "high", fs=16000, output="sos")
    rt60, clarity = [], []
    for n in range(8):
        room = random_room(rng, 0.25, 0.6)
        source, mic = (rng.uniform(0.5, np.array(room.dimensions) - 0.5) for _ in range(2))
        rirs = [s.simulate(room, source, mic[None], n)[0] for s in (theirs, ours, model)]
        times = np.array([measured_rt60(rir, room) for rir in rirs])
        # The step near 0 Hz that images add up to is no part of a room's sound.
        clear = np.array([float(c50(sosfiltfilt(high_pass, rir), 16000)) for rir in rirs])
        rt60.append(times[1:] / times[0] - 1)
        clarity.append(clear[1:] - clear[0])
    exact, modelled = np.abs(rt60).T
    assert exact.max() < 0.05
    # The late field is one draw of a random process.
    assert abs(np.median(np.array(rt60)[:, 1])) < 0.05 and modelled.max() < 0.2
    exact, modelled = np.abs(clarity).T
    assert exact.max() < 0.5 and modelled.max() < 0.5


@pytest.mark.slow
def test_late_field_has_the_energy_of_the_images_it_stands_for() -> None:
    rng = np.random.default_rng(5)
    rooms = [sample_room(rng, RoomConfig(min_rt60=0.2, max_rt60=0.8)) for _ in range(12)]
    # Displaced, because the regular images of a perfect shoebox are not incoherent: at high
    # frequencies many cancel, up to 12 dB late in a room with soft walls.
    full = JaxSimulator(taps=4000, max_images=1 << 17, late_images=0, displacement=0.08)
    model = replace(full, max_images=1024, late_images=1024)
    bands = [
        butter(2, edges, "band", fs=16000, output="sos")
        for edges in ((150, 600), (1000, 1400), (1700, 2500), (3200, 7000))
    ]
    high_pass = butter(2, 100, "high", fs=16000, output="sos")
    whole, late = [], []
    for n, room in enumerate(rooms):
        source, mics = np.array([0.8, 0.9, 1.1]), MICS * 0.6
        every, some = (s.simulate(room, source, mics, n) for s in (full, model))
        first = slice(0, 300)  # what arrives within 6 m is never modelled
        assert np.abs(every - some)[:, first].max() < 1e-3 * np.abs(every).max()
        x, y = sosfiltfilt(high_pass, some), sosfiltfilt(high_pass, every)
        whole.append(np.sum(x**2) / np.sum(y**2))
        filtered = [(sosfiltfilt(b, some), sosfiltfilt(b, every)) for b in bands]
        late.append([np.sum(x[:, 1600:] ** 2) / np.sum(y[:, 1600:] ** 2) for x, y in filtered])
    assert np.abs(10 * np.log10(whole)).max() < 0.3
    assert np.abs(np.median(10 * np.log10(late), axis=0)).max() < 0.7


def test_result_depends_on_the_room_and_its_seed_only() -> None:
    rng = np.random.default_rng(3)
    rooms = [sample_room(rng) for _ in range(5)]
    sources, mics = np.tile(SOURCE, (5, 1)) * 0.8, np.tile(MICS, (5, 1, 1)) * 0.8
    mask = np.array([[True, True, True]] * 4 + [[True, False, True]])
    seeds = [7, 8, 9, 10, 2**63 + 11]
    simulator = JaxSimulator(taps=4000, max_images=512, late_images=256)
    one = simulator.simulate_batch(rooms, sources, mics, mask, seeds)
    back = simulator.simulate_batch(rooms[::-1], sources[::-1], mics[::-1], mask[::-1], seeds[::-1])
    np.testing.assert_array_equal(one, back[::-1])
    np.testing.assert_array_equal(one[2], simulator.simulate(rooms[2], sources[2], mics[2], 9))
    assert not one[4, 1].any() and one[4, 2].any()
    other = simulator.simulate(rooms[2], sources[2], mics[2], 12)
    assert not np.array_equal(one[2], other)
    # A seed has 64 bits that all count.
    low, high = (simulator.simulate(rooms[4], sources[4], mics[4], s) for s in (11, 2**63 + 11))
    assert not np.array_equal(low, high)
    with ThreadPoolExecutor(4) as pool:
        again = list(
            pool.map(
                lambda _: simulator.simulate_batch(rooms, sources, mics, mask, seeds), range(4)
            )
        )
    for rirs in again:
        np.testing.assert_array_equal(rirs, one)
    several = replace(simulator, rooms_at_once=4).simulate_batch(rooms, sources, mics, mask, seeds)
    np.testing.assert_allclose(several, one, atol=2e-6 * np.abs(one).max())


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(InputError, match="raise max_images or lower max_order"):
        JaxSimulator(max_order=30).simulate(ROOM, SOURCE, MICS, 0)
    for wrong in (
        {"taps": 100},
        {"max_images": 100},
        {"late_images": -1},
        {"form": "fft"},
        {"max_order": -1},
    ):
        with pytest.raises(InputError):
            JaxSimulator(**wrong)
    with pytest.raises(InputError, match="window"):
        DelayFilter(window="flat")
