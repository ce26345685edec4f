"""Prediction of untrue answers: measures against the standard libraries, error rates as stated, labels, null
results."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.optimize
import scipy.stats

from edge.analysis.auroc_change import compare_truth
from edge.analysis.calibration import (
    BINS,
    FOLDS,
    bin_residuals,
    cross_fit,
    folds,
    judge,
    logistic,
    platt,
    reliability,
    threshold,
)
from edge.analysis.labels import Labels, read_labels
from edge.analysis.ranking import (
    benjamini_hochberg,
    draws_of,
    holm,
    mann_whitney_p,
    percentile_interval,
    rank_draws,
    risk_coverage,
)
from edge.analysis.scores import PREDICTORS, scores_of
from edge.analysis.tokens import read_tokens
from edge.analysis.truth import ALPHA, Truth, analyse_truth, judge_scores
from edge.errors import UserError
from edge.report.truth import verdict
from edge.runs.run_directory import Run
from tests.planted import Planted, write_run


def sample(seed: int, n: int = 200, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and outcomes that go with them a little."""
    rng = np.random.default_rng(seed)
    untrue = rng.random(n) < 0.4
    return np.round(rng.normal(0.5 * untrue, 1), decimals), untrue


def auroc(scores, untrue) -> float:
    x, y = np.asarray(scores, np.float64), np.asarray(untrue, np.bool_)
    return float(rank_draws(x, y, np.ones((x.size, 1), np.float32)).auroc[0])


def expected_calibration_error(probability: np.ndarray, untrue: np.ndarray) -> float:
    """Of questions as they are, from the sums that `judge` draws."""
    return float(np.abs(bin_residuals(probability, untrue, BINS).sum(axis=1)).sum() / untrue.size)


def labels_of(untrue: np.ndarray) -> Labels:
    return Labels({i: "incorrect" if bad else "correct" for i, bad in enumerate(untrue)}, "hand", 0, 0)


def judged(run: Run, labels: Labels) -> Truth:
    tokens = read_tokens(run)
    return analyse_truth(run, labels, tokens, scores_of(run, tokens))


# Measures


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_scikit_learns_with_ties(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, untrue = sample(seed)
    assert auroc(scores, untrue) == pytest.approx(metrics.roc_auc_score(untrue, scores), abs=1e-12)


def test_auroc_by_hand() -> None:
    assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auroc([1, 1, 1, 1], [False, False, True, True]) == 0.5
    assert (
        auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    )  # the example of scikit-learn's documentation
    assert math.isnan(auroc([1, 2], [True, True]))


@pytest.mark.parametrize("seed", range(3))
def test_p_is_that_of_the_mann_whitney_test(seed: int) -> None:
    scores, untrue = sample(seed)
    expected = scipy.stats.mannwhitneyu(scores[untrue], scores[~untrue], method="asymptotic")
    assert mann_whitney_p(scores, untrue) == pytest.approx(expected.pvalue, rel=1e-9)
    assert auroc(scores, untrue) == pytest.approx(
        expected.statistic / (untrue.sum() * (~untrue).sum()), abs=1e-12
    )


def slow_aurc(scores: np.ndarray, untrue: np.ndarray) -> float:
    """Mean over coverages, over many random orders of equal scores."""
    rng, areas = np.random.default_rng(0), []
    for _ in range(3000):
        shuffled = rng.permutation(scores.size)
        order = shuffled[np.argsort(scores[shuffled], kind="stable")]
        areas.append(np.mean(np.cumsum(untrue[order]) / np.arange(1, scores.size + 1)))
    return float(np.mean(areas))


def test_risk_coverage_and_prr_are_those_of_their_definitions() -> None:
    scores, untrue = sample(1, 60, 0)
    found = rank_draws(scores, untrue, np.ones((60, 1), np.float32))
    curve = risk_coverage(scores, untrue)
    assert float(found.aurc[0]) == pytest.approx(slow_aurc(scores, untrue), abs=2e-3)
    assert float(found.aurc[0]) == pytest.approx(curve.risk.mean(), abs=1e-6)
    # The ratio as lm-polygraph has it: mean accuracy of what is kept, against random and against the best
    # order.
    kept, best, random = 1 - curve.risk.mean(), 1 - curve.best.mean(), 1 - untrue.mean()
    assert float(found.prr[0]) == pytest.approx((kept - random) / (best - random), abs=1e-5)
    # With errors counted over all answers (Malinin et al. 2017) it would be 2 AUROC - 1: docs/metrics.md
    # says so.
    untied = scores + np.random.default_rng(2).normal(0, 1e-6, 60)
    left = np.concatenate([[0], np.cumsum(untrue[np.argsort(untied)])])
    chance, oracle = untrue.sum() / 2, untrue.sum() ** 2 / 2 / 60
    assert (chance - np.trapezoid(left) / 60) / (chance - oracle) == pytest.approx(
        2 * auroc(untied, untrue) - 1
    )
    perfect = rank_draws(untrue.astype(float), untrue, np.ones((60, 1), np.float32))
    assert float(perfect.prr[0]) == pytest.approx(1.0, abs=1e-5)
    constant = rank_draws(np.zeros(60), untrue, np.ones((60, 1), np.float32))
    assert float(constant.prr[0]) == pytest.approx(0.0, abs=1e-5)
    assert float(constant.auroc[0]) == 0.5


def test_a_resample_counts_a_question_as_often_as_it_was_drawn() -> None:
    scores, untrue = sample(2, 50)
    draws = np.random.default_rng(3).multinomial(50, np.full(50, 1 / 50), size=4).T.astype(np.float32)
    found = rank_draws(scores, untrue, draws)
    for i in range(4):
        times = draws[:, i].astype(int)
        again = rank_draws(np.repeat(scores, times), np.repeat(untrue, times), np.ones((50, 1), np.float32))
        np.testing.assert_allclose([v[i] for v in found], [v[0] for v in again], atol=1e-5)


def test_corrections_are_the_published_ones() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])  # R: p.adjust(p, "holm")
    random = np.random.default_rng(0).random(40) ** 2
    np.testing.assert_allclose(benjamini_hochberg(random), scipy.stats.false_discovery_control(random))
    with_hole = holm([0.01, math.nan, 0.04])
    np.testing.assert_allclose(with_hole, [0.02, math.nan, 0.04])


def test_platt_is_the_maximum_likelihood_fit() -> None:
    scores, untrue = sample(4)
    a, b = platt(scores, untrue)
    bad = untrue.sum()
    target = np.where(untrue, (bad + 1) / (bad + 2), 1 / (len(untrue) - bad + 2))

    def loss(ab: np.ndarray) -> float:
        z = ab[0] * scores + ab[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    best = scipy.optimize.minimize(loss, [0.0, 0.0], tol=1e-12).x
    np.testing.assert_allclose([a, b], best, atol=1e-4)
    separated = platt(np.array([-50.0, -40, 40, 50] * 5), np.array([False, False, True, True] * 5))
    assert np.isfinite(separated).all() and separated[0] > 0


def test_platt_is_scikit_learns() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    scores, untrue = sample(5)
    a, b = calibration._sigmoid_calibration(scores, untrue.astype(float))
    np.testing.assert_allclose(platt(scores, untrue), (-a, -b), rtol=1e-3)


def test_expected_calibration_error_by_hand_and_against_scikit_learn() -> None:
    # Two of four in (0.2, 0.3] with one untrue, two in (0.8, 0.9] with both: (2 |0.5 - 0.25| + 2 |1 - 0.85|)
    # / 4.
    p, untrue = np.array([0.25, 0.25, 0.85, 0.85]), np.array([True, False, True, True])
    assert expected_calibration_error(p, untrue) == pytest.approx(0.2, abs=1e-6)
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(6)
    p = rng.random(500)
    untrue = rng.random(500) < p**2
    true_share, mean_p = calibration.calibration_curve(untrue, p, n_bins=10, strategy="uniform")
    weights = np.histogram(p, np.linspace(0, 1, 11))[0] / 500
    assert expected_calibration_error(p, untrue) == pytest.approx(
        np.sum(weights * np.abs(true_share - mean_p)), abs=1e-6
    )
    bins = reliability(p, untrue)
    np.testing.assert_allclose([b.untrue for b in bins], true_share)
    np.testing.assert_allclose([b.probability for b in bins], mean_p)


def test_nothing_is_judged_on_questions_that_it_was_fitted_on() -> None:
    """In-sample thresholds on noise tell 55% and more rightly; held-out ones half."""
    rng = np.random.default_rng(7)
    held, seen = [], []
    for _ in range(60):
        scores, untrue = rng.normal(size=100), rng.random(100) < 0.5
        held.append(judge(cross_fit(scores, untrue), untrue).balanced_accuracy.value)
        flagged = scores > threshold(scores, untrue)
        seen.append((flagged[untrue].mean() + (~flagged)[~untrue].mean()) / 2)
    assert np.mean(held) == pytest.approx(0.5, abs=0.03)
    assert np.mean(seen) > 0.55
    fold = folds(untrue)
    scores = rng.normal(size=100)
    a, b = platt(scores[fold != 2], untrue[fold != 2])
    np.testing.assert_allclose(
        cross_fit(scores, untrue).probability[fold == 2], logistic(a * scores[fold == 2] + b)
    )
    assert sorted(np.bincount(fold.astype(int))) == [20] * FOLDS


# Error rates


def within(hits: int, trials: int, rate: float) -> bool:
    """Whether so many hits are what a rate gives, at a two-sided level of 0.1%."""
    return bool(scipy.stats.binomtest(hits, trials, rate).pvalue > 0.001)


def test_intervals_of_auroc_cover_the_truth_as_stated() -> None:
    """Binormal scores, d apart: AUROC is Phi(d / sqrt 2). Percentile intervals of 120 questions cover 94 to
    95%."""
    rng, truth, hits, trials = np.random.default_rng(8), scipy.stats.norm.cdf(0.8 / math.sqrt(2)), 0, 300
    for _ in range(trials):
        untrue = rng.random(120) < 0.4
        found = percentile_interval(rank_draws(rng.normal(0.8 * untrue, 1), untrue, draws_of(120)).auroc)
        hits += found.low <= truth <= found.high
    assert within(hits, trials, 0.945), hits


@pytest.mark.parametrize(("shared", "lowest"), [(0.0, 0.02), (0.8, 0.0)])
def test_the_family_wise_error_rate_is_held(shared: float, lowest: float) -> None:
    """Scores without effect, independent or correlated: at most ALPHA of the runs have a finding (and about
    so many where they are independent, or the test would say nothing)."""
    rng, trials, false = np.random.default_rng(9), 400, 0
    for _ in range(trials):
        untrue = rng.random(60) < 0.4
        values = math.sqrt(1 - shared) * rng.normal(size=(60, 20)) + math.sqrt(shared) * rng.normal(
            size=(60, 1)
        )
        false += bool((judge_scores(values, untrue)[1] < ALPHA).any())
    assert scipy.stats.binomtest(false, trials, ALPHA, "greater").pvalue > 0.001, false
    assert false / trials >= lowest


# Runs


def test_a_planted_effect_is_found_and_named(tmp_path: Path) -> None:
    run, untrue = write_run(tmp_path / "run", Planted(effect=0.4, between=0.3), 1, 200, 20)
    found = judged(run, labels_of(untrue))
    best = found.predictions[0]
    assert (best.metric, best.summary) == ("output_entropy", "mean")
    truth = scipy.stats.norm.cdf(0.4 / math.sqrt(2) / math.sqrt(0.3**2 + 0.3**2 / 20))
    assert best.auroc.low <= truth <= best.auroc.high
    assert {p.metric for p in found.found} == {"output_entropy"}
    assert "first of them: Output entropy, mean, AUROC" in verdict(found)
    assert found.untrue.value == pytest.approx(untrue.mean())
    assert found.trajectory_difference is not None
    assert found.trajectory_difference.mean.mean() == pytest.approx(0.4, abs=0.15)


@pytest.mark.slow
def test_runs_without_an_effect_yield_no_finding_as_often_as_stated(tmp_path: Path) -> None:
    trials = 40
    false = 0
    for seed in range(trials):
        run, untrue = write_run(tmp_path / str(seed), Planted(), seed, 60, 10)
        p = judge_scores(scores_of(run, read_tokens(run)).values, untrue)[1]
        false += bool((p < ALPHA).any())
    assert scipy.stats.binomtest(false, trials, ALPHA, "greater").pvalue > 0.001, false
    found = judged(run, labels_of(untrue))
    assert found.found == ()
    assert verdict(found).startswith(
        "No metric predicts untrue answers better than chance after correction (60 answers, hand labels, "
    )


def test_scores_are_turned_by_what_the_metric_means_and_not_by_the_outcome(tmp_path: Path) -> None:
    run, untrue = write_run(tmp_path / "run", Planted(effect=-0.5), 2, 150, 10)
    found = judged(run, labels_of(untrue))
    assert found.predictions[0].auroc.value < 0.5
    assert "against the direction that was assumed" in verdict(found)
    scores = scores_of(run, read_tokens(run))
    answers = run.answers()
    falling = scores.values[:, scores.names.index(("top1_probability", "extreme"))]
    np.testing.assert_allclose(falling, -answers.column("top1_probability_min").to_numpy())
    last = scores.values[:, scores.names.index(("output_entropy", "last"))]
    steps = run.steps(["question_index", "step", "output_entropy"])
    np.testing.assert_allclose(last, steps.column("output_entropy").to_numpy()[9::10], rtol=1e-6)
    assert {metric for metric, _ in scores.names} >= set(PREDICTORS)


def test_too_few_answers_of_a_kind_are_not_judged(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path / "run", Planted(), 3, 40, 5)
    found = judged(run, labels_of(np.arange(40) < 9))
    assert found.predictions == ()
    assert (
        verdict(found)
        == "9 untrue and 31 true answers are too few to judge a metric by: at least 10 of each are needed"
    )
    with pytest.raises(UserError, match="no outcome of a question"):
        judged(run, Labels({99: "best"}, "hand", 0, 0))


def test_two_models_are_compared_on_the_same_draws(tmp_path: Path) -> None:
    with_effect, untrue = write_run(tmp_path / "a", Planted(effect=0.6), 4, 200, 10)
    without, other = write_run(tmp_path / "b", Planted(), 5, 200, 10)
    one = scores_of(with_effect, read_tokens(with_effect)), labels_of(untrue)
    two = scores_of(without, read_tokens(without)), labels_of(other)
    assert all(change.difference[:3] == (0.0, 0.0, 0.0) for change in compare_truth(one, one))
    changes = compare_truth(one, two)
    assert changes[0].metric == "output_entropy"
    assert changes[0].difference.high < 0
    assert changes[0].holm < ALPHA
    assert {c.metric for c in changes if c.holm < ALPHA} == {"output_entropy"}


# Labels


def label(run: Run, rows: list[tuple[int, str | None, str]], **other: object) -> None:
    columns = {
        "question_index": pa.array([row[0] for row in rows], pa.int32()),
        "question_id": ["q"] * len(rows),
        "outcome": pa.array([row[1] for row in rows], pa.string()),
        "source": [row[2] for row in rows],
        "rater": [f"r{i}" for i in range(len(rows))],
        "margin": pa.array([None] * len(rows), pa.float32()),
    } | other
    pq.write_table(pa.table(columns), run.folder / "outcomes.parquet")


def test_people_go_before_programs_and_the_majority_decides(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path / "run", Planted(), 6, 6, 5)
    assert read_labels(run) is None
    label(
        run,
        [
            (0, "best", "automatic"),
            (0, "incorrect", "hand"),
            (1, "best", "hand"),
            (1, "correct", "imported"),
            (1, "incorrect", "hand"),
            (2, "best", "hand"),
            (2, "incorrect", "hand"),
            (3, "best_incorrect", "automatic"),
            (4, None, "hand"),
        ],
    )
    found = read_labels(run)
    assert found == Labels(
        {0: "incorrect", 1: "best", 3: "best_incorrect"}, "hand (2) and automatic (1)", 1, 2
    )


@pytest.mark.parametrize(
    ("rows", "other", "words"),
    [
        ([(9, "best", "hand")], {}, "labels question 9"),
        ([(0, "best", "hand")], {"question_id": ["other"]}, "which .* does not hold"),
        ([(0, "good", "hand")], {}, "calls question 0 'good'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, rows: list, other: dict, words: str) -> None:
    run, _ = write_run(tmp_path / "run", Planted(), 7, 3, 5)
    label(run, rows, **other)
    with pytest.raises(UserError, match=words):
        read_labels(run)
