"""The Fréchet distance, its statistics and the kernel distance, against exact and independent references."""

import dataclasses
import json
import math
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from tests.conftest import quickest
from vggish_keras.frechet import Statistics, compare, distance, frechet_distance, kad, rank_recordings

SPECTRUM = np.exp(-np.arange(128) / 20)


def statistics(rows, rows_per_recording=None, prefix=""):
    """Statistics of rows without names, or of recordings of a length."""
    result = Statistics()
    if rows_per_recording is None:
        result.add(rows)
    else:
        for start in range(0, len(rows), rows_per_recording):
            result.add(rows[start : start + rows_per_recording], f"{prefix}{start}.wav")
    return result


def fad(first, second):
    return frechet_distance(statistics(first).gaussian(), statistics(second).gaussian())


def gaussian(seed, n, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(mean, scale * SPECTRUM, (n, 128))


def traces(first, second):
    """The distance by its definition, as other programs compute it."""
    mean = first.mean(axis=0) - second.mean(axis=0)
    a, b = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(a)
    return mean @ mean + np.trace(a + b) - 2 * np.sqrt(scipy.linalg.eigvalsh(root @ b @ root).clip(0)).sum()


# === The distance ===


@pytest.fixture(scope="module")
def exact(reference):
    arrays = dict(np.load(reference / "fad.npz"))
    pairs = json.loads(str(arrays["about"]))["pairs"]

    def rows(name):
        base, _, stop = name.removeprefix("relu ").partition("[:")
        values = arrays[base][: int(stop[:-1]) if stop else None]
        return np.maximum(values, 0) if name.startswith("relu ") else values

    return {
        name: (rows(pair["baseline"]), rows(pair["evaluated"]), pair)
        for name, pair in pairs.items()
        if "baseline" in pair
    }


@pytest.mark.reference
def test_exact_distances(exact, tmp_path):
    """19 pairs, computed with exact sums and 110 digits: from rows, and from saved statistics."""
    assert len(exact) == 19
    for name, (first, second, pair) in exact.items():
        sides = statistics(first), statistics(second, rows_per_recording=7)
        values = [frechet_distance(*(side.gaussian() for side in sides))]
        for index, side in enumerate(sides):
            side.save(tmp_path / f"{index}.npz")
        loaded = (Statistics.load(tmp_path / f"{index}.npz") for index in range(2))
        values.append(frechet_distance(*(side.gaussian() for side in loaded)))
        assert values == pytest.approx([float(pair["fad"])] * 2, rel=1e-11, abs=1e-20), name


@pytest.mark.reference
def test_exact_kernel_distances(exact):
    for name, (first, second, pair) in exact.items():
        for side in ("reference", "evaluated"):
            if pair.get(f"kad_bandwidth_of_{side}") is not None:
                # The distances of the pair with a large offset have fewer digits.
                expected = pytest.approx(
                    pair[f"kad_bandwidth_of_{side}"], rel=1e-6 if name == "large_offset" else 1e-10
                )
                assert kad(first, second, side).value == expected, name


@pytest.mark.parametrize("turned", [False, True])
def test_gaussians_whose_distance_is_known(turned):
    rng = np.random.default_rng(0)
    first = 4 * np.arange(1, 129) ** -1.3
    second = np.roll(first, 5)
    turn = np.linalg.qr(rng.normal(size=(128, 128)))[0] if turned else np.eye(128)
    sides = [
        Statistics.from_moments(turn @ np.full(128, mean), turn @ np.diag(spread) @ turn.T)
        for mean, spread in ((0, first), (0.25, second))
    ]
    expected = 128 * 0.25**2 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert compare(*sides).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_properties_of_a_distance(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 2, 5, 60, 128, 129, 400], 2)
    first, second = (rng.normal(rng.normal(), 10 ** rng.uniform(-3, 3, 128), (n, 128)) for n in sizes)
    first[:, 3] = 7.0
    value = fad(first, second)
    assert value > 0
    assert fad(second, first) == pytest.approx(value, rel=1e-12)
    assert fad(8 * first, 8 * second) == pytest.approx(64 * value, rel=1e-12)
    assert fad(first + 3, second + 3) == pytest.approx(value, rel=1e-10)
    assert 0 <= fad(first, first) < 1e-20 * value


def test_rotation_changes_nothing():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(128, 128)))[0]
    first, second = gaussian(1, 300), gaussian(2, 400, 0.1, 1.5)
    assert fad(first @ turn, second @ turn) == pytest.approx(fad(first, second), rel=1e-12)


def test_distance_is_that_of_the_definition():
    first, second = gaussian(1, 300), gaussian(2, 400, 0.1, 1.5)
    assert fad(first, second) == pytest.approx(traces(first, second), rel=1e-7)


def test_number_of_embeddings_bounds_the_rank_of_statistics_in_float32():
    """Those of google-research are in float32: without the bound, noise in the null space costs 1e-3."""
    first, second = gaussian(1, 60), gaussian(2, 80)
    rounded = [
        Statistics.from_moments(rows.mean(axis=0).astype("f4"), np.cov(rows.T).astype("f4"), len(rows))
        for rows in (first, second)
    ]
    assert compare(*rounded).value == pytest.approx(fad(first, second), abs=1e-6)


# === Statistics ===


def test_parts_in_any_order_give_the_same_statistics():
    rows = gaussian(0, 2_000, mean=50)
    whole = Statistics()
    whole.add(rows, "a.wav")
    cuts = np.sort(np.random.default_rng(1).integers(0, 2_000, 60))
    shuffled = np.random.default_rng(2).permutation(61)
    merged = Statistics()
    parts = np.split(rows, cuts)
    for index in shuffled:
        shard = Statistics()
        shard.add(parts[index], f"{index}.wav")
        merged += shard
    for got in (whole, merged):
        assert got.n == 2_000
        np.testing.assert_allclose(got.mean, rows.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(got.covariance, np.cov(rows.T), rtol=0, atol=1e-12 * np.cov(rows.T).max())
    assert merged.recordings == sum(len(part) > 0 for part in parts)


def test_parts_of_a_recording_count_as_one():
    split = Statistics()
    for part in np.split(gaussian(0, 10), 5):
        split.add(part, "a.wav")
    split.add(gaussian(1, 3), "b.wav")
    split.add(gaussian(1, 0), "empty.wav")
    assert (split.n, split.recordings) == (13, 2)
    assert repr(split) == "Statistics(13 embeddings of 2 recordings)"


def test_statistics_are_taken_off_again():
    first, second = statistics(gaussian(0, 300), 10), statistics(gaussian(1, 200), 10, "other")
    both = statistics(gaussian(0, 300), 10)
    both += second
    both -= second
    assert (both.n, both.recordings) == (first.n, first.recordings)
    np.testing.assert_allclose(both.covariance, first.covariance, rtol=0, atol=1e-14)
    for other in (statistics(gaussian(2, 400), 400), statistics(gaussian(2, 400), 10)):
        with pytest.raises(ValueError, match="cannot subtract statistics that were not added"):
            both -= other


def test_a_recording_is_counted_again_after_it_was_subtracted():
    rows = gaussian(0, 10)
    whole, part = Statistics(), Statistics()
    for one in (whole, part):
        one.add(rows, "a.wav")
    whole -= part
    whole.add(rows, "a.wav")
    assert (whole.n, whole.recordings) == (10, 1)


def test_memory_does_not_grow_with_the_corpus():
    rows = gaussian(0, 10).astype(np.float32)
    tracemalloc.start()
    added = Statistics()
    for index in range(50_000):
        added.add(rows + np.float32(index), f"{index}.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (added.n, added.recordings) == (500_000, 50_000)
    assert peak < 10e6


def test_saved_statistics_keep_everything(tmp_path):
    rows = gaussian(0, 500).astype(np.float32)
    rows[:20] = rows[0]
    options = {"weights": "sha256:0", "hop_seconds": 0.96}
    saved = Statistics(options)
    for start in range(0, 500, 10):
        saved.add(rows[start : start + 10], f"{start}.wav")
    saved.save(tmp_path / "x.npz")
    loaded = Statistics.load(tmp_path / "x.npz")
    assert loaded.options == options
    assert (loaded.n, loaded.recordings, loaded.constant_recordings, loaded.is_quantized) == (500, 50, 2, False)
    np.testing.assert_array_equal(loaded.covariance, saved.covariance)
    evaluated = statistics(gaussian(1, 400), 10)
    assert compare(loaded, evaluated) == compare_equal(compare(saved, evaluated), loaded)
    assert loaded.count_shared(saved) == 48
    saved.save(tmp_path / "y.npz")
    assert (tmp_path / "y.npz").stat().st_size < 1.6e6
    with np.load(tmp_path / "x.npz") as file:  # as fadtk reads a baseline
        np.testing.assert_allclose(file["vggish.mu"], rows.mean(axis=0, dtype=float), atol=1e-12)
        np.testing.assert_allclose(file["vggish.cov"], np.cov(rows.T.astype(float)), atol=1e-12)


def compare_equal(result, baseline):
    """The same result with another object for its baseline."""
    return dataclasses.replace(result, baseline=baseline)


@pytest.mark.parametrize("keys", [("vggish.mu", "vggish.cov"), ("mu", "sigma"), ("mu_ref", "sigma_ref")])
def test_statistics_of_other_tools(tmp_path, keys):
    rows = gaussian(0, 400)
    np.savez(tmp_path / "x.npz", **dict(zip(keys, (rows.mean(axis=0), np.cov(rows.T)), strict=True)))
    loaded = Statistics.load(tmp_path / "x.npz")
    assert loaded.n is None
    result = compare(loaded, statistics(gaussian(1, 300)))
    assert result.value == pytest.approx(fad(rows, gaussian(1, 300)), rel=1e-12)
    assert (result.bias, result.corrected) == (None, None)
    assert "no corrected value: the number of embeddings of a set is unknown" in result.warnings
    with pytest.raises(ValueError, match="number of embeddings behind these statistics is unknown"):
        loaded.add(rows)


# === Bias, correction, interval ===


def test_students_quantiles():
    expected = scipy.stats.t.ppf(0.975, np.arange(4, 20))
    np.testing.assert_allclose(distance._STUDENT_95, expected, rtol=0, atol=5e-4)


def test_bias_is_a_lower_bound_that_becomes_tight():
    """Two samples of one distribution: all of the distance is bias."""
    for n, least in ((300, 0.8), (1_000, 0.93)):
        pairs = [(gaussian(seed, n), gaussian(seed + 99, n)) for seed in range(6)]
        biases = [distance._bias(*(statistics(rows).gaussian() for rows in pair)) for pair in pairs]
        assert least < np.mean(biases) / np.mean([fad(*pair) for pair in pairs]) < 1
    result = compare(statistics(pairs[0][0]), statistics(pairs[0][1]))
    assert result.bias == biases[0]
    assert any("comes from the sizes of the sets" in warning for warning in result.warnings)


def known_distance(mean, scale):
    return 128 * mean**2 + (SPECTRUM**2).sum() * (scale - 1) ** 2


def test_corrected_value_has_no_bias():
    n = 600
    truth = known_distance(0.02, 1.05)
    results = [
        compare(statistics(gaussian(seed, n)), statistics(gaussian(seed + 99, n, 0.02, 1.05))) for seed in range(12)
    ]
    assert np.mean([result.corrected for result in results]) == pytest.approx(truth, abs=0.02)
    assert np.mean([result.value for result in results]) > truth + 0.025
    covered = [result.interval[0] <= truth <= result.interval[1] for result in results]
    assert sum(covered) >= 10
    spread = np.std([result.corrected for result in results])
    assert 0.5 * spread < np.mean([result.standard_error for result in results]) < 2 * spread


def test_interval_covers_the_truth_when_embeddings_of_a_recording_are_alike():
    """Recordings of unequal lengths, half of whose variance is between recordings: the true distance is 0."""

    def sample(seed):
        rng = np.random.default_rng(seed)
        result = Statistics()
        for index in range(300):
            center = rng.normal(0, SPECTRUM)
            result.add(center + rng.normal(0, SPECTRUM, (rng.integers(1, 20), 128)), f"{seed}/{index}.wav")
        return result

    results = [compare(sample(seed), sample(seed + 99)) for seed in range(6)]
    assert np.mean([result.value for result in results]) > 0.2
    assert abs(np.mean([result.corrected for result in results])) < 0.06
    assert sum(result.interval[0] <= 0 <= result.interval[1] for result in results) >= 5


def test_equal_groups_give_the_classical_jackknife():
    """20 equal groups on one side; the other side is so large that its correction vanishes."""
    rows = gaussian(0, 400)
    other = gaussian(1, 500)
    result = distance._jackknife(statistics(rows), traces(rows, other), distance._root(statistics(other).gaussian()))
    without = [np.delete(rows, slice(20 * group, 20 * group + 20), axis=0) for group in range(20)]
    values = np.array([traces(part, other) for part in without])
    value = traces(rows, other)
    assert value + result.correction == pytest.approx(20 * value - 19 * values.mean(), rel=1e-5)
    assert result.variance == pytest.approx(19 / 20 * ((values - values.mean()) ** 2).sum(), rel=1e-4)


@pytest.mark.reference
def test_halves_of_the_audioset_shard(reference):
    from vggish_keras import records

    clips = list(records.read(reference / "audioset_eval_rm.tfrecord"))
    order = np.random.default_rng(0).permutation(len(clips))
    sides = Statistics(), Statistics()
    for position, index in enumerate(order):
        sides[position % 2].add(records.dequantize(clips[index].embedding), clips[index].video_id)
    result = compare(*sides)
    assert result.value > 15
    assert result.corrected < 6
    assert result.interval[0] < 0 < result.interval[1]


# === Recordings ===


def recordings(count, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 20, count)
    return [
        (f"{index}.wav", rng.normal(0.2 * rng.normal(), scale * SPECTRUM, (n, 128)).astype(np.float32))
        for index, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("count", [4, 30])
def test_ranking_equals_the_full_formula(count):
    baseline = gaussian(1, 1_000)
    evaluated = recordings(count)
    evaluated.append(("long.wav", gaussian(5, 300, 0.1)))
    ranking = rank_recordings(statistics(baseline), evaluated)
    assert sorted(row.recording for row in ranking) == sorted(name for name, _ in evaluated)
    influences = [row.influence for row in ranking]
    assert influences == sorted(influences, reverse=True)
    joined = np.concatenate([rows for _, rows in evaluated])
    for row in ranking[:: len(ranking) // 5]:
        rows = dict(evaluated)[row.recording]
        others = np.concatenate([rows for name, rows in evaluated if name != row.recording])
        assert row.examples == len(rows)
        assert row.fad == pytest.approx(fad(baseline, rows), rel=1e-12)
        assert row.influence == pytest.approx(fad(baseline, joined) - fad(baseline, others), rel=1e-5, abs=1e-6)


def test_ranking_of_special_sets():
    baseline = statistics(gaussian(1, 1_000))
    (only,) = rank_recordings(baseline, [("a.wav", gaussian(2, 5)), ("a.wav", gaussian(3, 1))])
    assert (only.examples, only.influence) == (6, None)
    (one,) = rank_recordings(baseline, [("a.wav", gaussian(2, 1))])
    assert one.fad == pytest.approx(
        ((baseline.mean - gaussian(2, 1)) ** 2).sum() + np.trace(baseline.covariance), rel=1e-12
    )
    first, second = rank_recordings(baseline, [("a.wav", gaussian(2, 1)), ("b.wav", gaussian(4, 1, 9))])
    assert first.recording == "b.wav"
    both = np.concatenate([gaussian(2, 1), gaussian(4, 1, 9)])
    assert first.influence == pytest.approx(fad(gaussian(1, 1_000), both) - second.fad)
    with pytest.raises(ValueError, match="the evaluated set has no embeddings"):
        rank_recordings(baseline, [])


@pytest.mark.timing
def test_ten_thousand_recordings_are_ranked_quickly():
    evaluated = [(f"{index}.wav", rows) for index, rows in enumerate(np.split(gaussian(0, 100_000), 10_000))]
    baseline = statistics(gaussian(1, 1_000))
    assert quickest(lambda: rank_recordings(baseline, evaluated), times=3) < 2


# === Kernel distance ===


def direct_kad(x, y, bandwidth):
    def kernel(a, b):
        return np.exp(-((a[:, np.newaxis] - b) ** 2).sum(axis=2) / (2 * bandwidth**2))

    xx, yy = kernel(x, x), kernel(y, y)
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy))
    return 100 * (within - 2 * kernel(x, y).mean())


def test_kernel_distance_equals_the_direct_sum(monkeypatch):
    monkeypatch.setattr(distance, "_KERNEL_BLOCK", 64)
    x, y = gaussian(0, 150), gaussian(1, 201, 0.2)
    value, bandwidth = kad(x, y)
    distances = np.sort(np.linalg.norm(x[:, np.newaxis] - x, axis=2)[np.triu_indices(150, 1)])
    assert bandwidth == pytest.approx(distances[(len(distances) - 1) // 2], rel=1e-12)
    assert value == pytest.approx(direct_kad(x, y, bandwidth), rel=1e-10)
    assert kad(x, y, 2.5) == (pytest.approx(direct_kad(x, y, 2.5), rel=1e-10), 2.5)
    assert kad(x, y, "evaluated").bandwidth == pytest.approx(kad(y, x, "reference").bandwidth, rel=1e-12)
    assert kad(x + 1_000, y + 1_000).value == pytest.approx(value, rel=1e-8)


def test_bandwidth_of_many_rows_is_that_of_some(monkeypatch):
    monkeypatch.setattr(distance, "_MEDIAN_ROWS", 100)
    x = gaussian(0, 1_000)
    some = x[np.linspace(0, 999, 100).round().astype(int)]
    assert kad(x, x).bandwidth == pytest.approx(kad(some, some).bandwidth, rel=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "bandwidth", "message"),
    [
        (gaussian(0, 1), gaussian(1, 9), None, "at least 2 embeddings in each set, got 1 and 9"),
        (gaussian(0, 9), np.zeros((9, 128), np.uint8), None, "different spaces"),
        (np.ones((9, 128)), gaussian(0, 9), None, "bandwidth must be positive, got 0.0"),
        (gaussian(0, 9), gaussian(0, 9), -1.0, "bandwidth must be positive, got -1.0"),
        (gaussian(0, 9), gaussian(0, 9), math.inf, "bandwidth must be positive, got inf"),
        (gaussian(0, 9), gaussian(0, 9), "median", "must be a number, .reference. or .evaluated., got 'median'"),
    ],
)
def test_invalid_arguments_of_kad(first, second, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        kad(first, second, bandwidth)


# === Bad inputs ===


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 127)), r"a.wav: expected embeddings \[n, 128\] of floats or uint8, got float64 \[3, 127\]"),
        (np.zeros(128), r"got float64 \[128\]"),
        (np.zeros((2, 3, 128)), r"got float64 \[2, 3, 128\]"),
        (np.zeros((3, 128), complex), r"got complex128 \[3, 128\]"),
        (np.zeros((3, 128), object), r"got object \[3, 128\]"),
        (np.zeros((3, 128), np.int64), r"got int64 \[3, 128\]"),
        ([[1.0], [1.0, 2.0]], "rows of different lengths"),
        (np.where(np.arange(4)[:, np.newaxis] == 2, np.nan, np.zeros((4, 128))), "a.wav: .* NaN or infinity in row 2"),
        (np.full((4, 128), np.inf), "NaN or infinity in row 0"),
    ],
)
def test_rows_that_are_no_embeddings(rows, message):
    with pytest.raises(ValueError, match=message):
        Statistics().add(rows, "a.wav")


def test_quantized_embeddings_are_not_mixed_with_others():
    quantized = Statistics()
    quantized.add(np.zeros((3, 128), np.uint8), "a.wav")
    raw = statistics(gaussian(0, 3))
    with pytest.raises(ValueError, match="expected 8-bit embeddings as before, got float ones from b"):
        quantized.add(np.zeros((3, 128)), "b.wav")
    with pytest.raises(ValueError, match="got float ones from the other statistics"):
        quantized += raw
    with pytest.raises(ValueError, match="different spaces: the evaluated set has 8-bit"):
        compare(raw, quantized)


def test_tiny_sets_have_a_value_and_warnings():
    one, many = gaussian(0, 1), gaussian(1, 300)
    result = compare(statistics(many), statistics(one))
    expected = ((many.mean(axis=0) - one) ** 2).sum() + np.trace(np.cov(many.T))
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert result.corrected is None
    assert "the evaluated set has a single embedding, and so no spread" in result.warnings
    assert "no corrected value: a set has fewer than 129 embeddings" in result.warnings
    same = compare(statistics(np.ones((5, 128))), statistics(many))
    assert "all embeddings of the baseline are the same: it has no spread" in same.warnings
    with pytest.raises(ValueError, match="the baseline set has no embeddings"):
        compare(Statistics(), statistics(many))


def test_warnings_about_recordings():
    rows = gaussian(0, 600)
    rows[:20] = 0
    baseline = statistics(rows, 10)
    evaluated = statistics(np.concatenate([gaussian(1, 300), rows[-50:]]), 10, "other")
    warnings = compare(baseline, evaluated).warnings
    assert "the baseline has 60 recordings: below 100, the corrected value is uncertain" in warnings
    assert "2 of 60 recordings of the baseline have the same embedding throughout, like silence" in warnings
    assert any(warning.startswith("5 recordings of the evaluated set have the same embeddings") for warning in warnings)
    few = Statistics()
    few.add(gaussian(0, 400), "a.wav")
    assert any("fill fewer than 5 of the groups" in warning for warning in compare(baseline, few).warnings)
    identical = compare(baseline, baseline)
    assert identical.value < 1e-20
    assert identical.corrected is None
    assert "no corrected value: the two sets are the same" in identical.warnings


@pytest.mark.parametrize(
    ("first", "second", "error", "warnings"),
    [
        ({}, {}, None, 0),
        ({"weights": "a", "hop_seconds": 0.96}, {"weights": "a", "hop_seconds": 0.96, "relu": False}, None, 0),
        ({"weights": "a"}, {"weights": "b"}, "baseline was made with weights a, the evaluated set with weights b", 0),
        (
            {"postprocess": None},
            {"postprocess": "pca"},
            "postprocess none, the evaluated set with postprocess pca",
            0,
        ),
        ({"relu": True}, {"weights": None}, "relu True", 0),
        ({"level": "peak"}, {"weights": None}, "level peak", 0),
        ({"hop_seconds": 0.5, "padding": "same"}, {"hop_seconds": 0.96, "padding": "short"}, None, 2),
        ({"version": "1", "dtype": "float16"}, {"version": "2", "dtype": "float32"}, None, 1),
        ({"weights": "a"}, {}, None, 1),
    ],
)
def test_options_of_both_sets_are_compared(first, second, error, warnings):
    sides = Statistics(first), Statistics(second)
    for seed, side in enumerate(sides):
        side.add(gaussian(seed, 400))
    if error:
        with pytest.raises(ValueError, match=error):
            compare(*sides)
    else:
        plain = compare(statistics(gaussian(0, 400)), statistics(gaussian(1, 400)))
        assert len(compare(*sides).warnings) == len(plain.warnings) + warnings


GOOD = {"vggish.mu": np.zeros(128), "vggish.cov": np.eye(128)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vggish.cov": None}, "holds no statistics: expected vggish.mu and vggish.cov"),
        ({"vggish.cov": np.eye(127)}, r"vggish.cov must have shape \[128, 128\], got shape \[127, 127\]"),
        ({"vggish.mu": np.zeros((1, 128))}, r"vggish.mu must have shape \[128\]"),
        ({"vggish.mu": np.zeros(128, complex)}, "unexpected dtype, complex128"),
        ({"vggish.mu": np.full(128, np.nan)}, "x.npz: mean and covariance must be finite"),
        ({"vggish.cov": np.triu(np.ones((128, 128)))}, "x.npz: the covariance must be symmetric"),
        ({"vggish.cov": -np.eye(128)}, "x.npz: the covariance must not have negative eigenvalues, got -1"),
        ({"vggish.cov": np.array([None] * 128)}, "x.npz is not an .npz file of plain arrays"),
        ({"vggish.n": np.array(5)}, "about must have shape"),
        ({"options": np.array("[")}, "contains invalid options"),
        ({"options": np.array(3)}, "options has an unexpected dtype"),
    ],
)
def test_files_that_hold_no_statistics(tmp_path, changes, message):
    arrays = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        Statistics.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups.n": np.zeros(20, int)}, "groups.n must count embeddings"),
        ({"groups.m2": np.full((20, 8256), np.nan)}, "must be finite"),
        ({"groups.mean": np.zeros((19, 128))}, r"groups.mean must have shape \[20, 128\]"),
        ({"digests": np.zeros(3)}, "digests must be uint64"),
        ({"about": np.array("{}")}, "about must hold numbers of recordings"),
        ({"about": np.array('{"recordings": 1, "constant_recordings": 0, "is_quantized": "x"}')}, "about must hold"),
        ({"about": np.array("{")}, "contains invalid options"),
    ],
)
def test_damaged_statistics(tmp_path, changes, message):
    statistics(gaussian(0, 300)).save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        np.savez(tmp_path / "x.npz", **{**file, **changes})
    with pytest.raises(ValueError, match=message):
        Statistics.load(tmp_path / "x.npz")


def test_where_statistics_cannot_be_saved(tmp_path):
    for path, message in (("x.csv", "expected an .npz or .tfrecord file"), ("no/x.npz", "does not exist")):
        with pytest.raises(ValueError, match=message):
            statistics(gaussian(0, 2)).save(tmp_path / path)
    with pytest.raises(ValueError, match="cannot save statistics without embeddings"):
        Statistics().save(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError, match=r"no \.npz file"):
        Statistics.load(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError, match=r"no \.tfrecord file"):
        Statistics.load(tmp_path / "x.tfrecord")
    with pytest.raises(ValueError, match=r"the number of embeddings, which is unknown: save an \.npz file"):
        Statistics.from_moments(np.zeros(128), np.eye(128)).save(tmp_path / "x.tfrecord")
    assert not list(tmp_path.iterdir())
