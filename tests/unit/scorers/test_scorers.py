"""Scorers against their numpy twins, in value; and the contract that all of them keep."""

import copy
import pickle

import numpy as np
import pytest
import reference
import torch
from sklearn.svm import OneClassSVM
from torch import Tensor

from panda_anomalib.scorers import (
    CenterScorer,
    KMeansScorer,
    KNNScorer,
    OCSVMScorer,
    Scorer,
    WhiteningScorer,
    make_scorer,
    search,
)

SQUARE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [10.0, 0.0]])  # METHODS, section 7

SCORERS = [
    KNNScorer(2),
    KNNScorer(3, distance="cosine", reduction="sum"),
    KNNScorer(1, distance="euclidean"),
    KMeansScorer(4),
    CenterScorer(),
    WhiteningScorer(),
    WhiteningScorer(5, shrinkage=0.0),
    WhiteningScorer(0.8, score="center", shrinkage=0.1),
    OCSVMScorer(),
]
IDS = ["knn", "cosine", "euclidean", "kmeans", "center", "whitening", "whitening-pca", "whitening-center", "ocsvm"]


@pytest.fixture
def normal(rng: np.random.Generator) -> Tensor:
    """Forty embeddings of 12 dimensions with a large common mean, as pooled activations have."""
    return torch.from_numpy((rng.normal(size=(40, 12)) + 30).astype(np.float32))


@pytest.fixture
def queries(rng: np.random.Generator, normal: Tensor) -> Tensor:
    """Seven embeddings, one of them almost a copy of a normal one: where careless distances lose their digits."""
    rows = torch.from_numpy((2 * rng.normal(size=(7, 12)) + 30).astype(np.float32))
    rows[0] = normal[3] + 1e-3
    return rows


@pytest.mark.parametrize("k", [1, 2, 40])
@pytest.mark.parametrize("distance", ["squared", "euclidean", "cosine"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_knn_equals_brute_force(k: int, distance: str, reduction: str, normal: Tensor, queries: Tensor) -> None:
    """Values equal the float64 reference up to k = N; cosine loses digits in the rounding of its unit vectors."""
    scorer = KNNScorer(k, distance=distance, reduction=reduction)
    scorer.fit(normal)
    expected = reference.knn(queries.numpy(), normal.numpy(), k, distance, reduction)
    absolute = 1e-9 if distance != "cosine" else 1e-10
    relative = 1e-5 if distance != "cosine" else 2e-3  # distances of 1e-4 between vectors of length 1
    np.testing.assert_allclose(scorer(queries), expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize(
    ("query", "total"), [((1.0, 0.0), 5.0), ((0.0, 2.0), 8.0), ((6.0, 0.0), 25.0)], ids=["near", "tie", "far"]
)
def test_knn_by_hand(query: tuple[float, float], total: float) -> None:
    """METHODS section 7: sums of squared distances to the 2 nearest."""
    scorer = KNNScorer(2, reduction="sum")
    scorer.fit(SQUARE)
    assert scorer(torch.tensor([query])).tolist() == [total]


def test_knn_calibration_leaves_each_image_out() -> None:
    """METHODS section 7: 12.5, 17, 20.5, 74.5; with themselves among the neighbours they would be half as far."""
    scorer = KNNScorer(2)
    scorer.fit(SQUARE)
    assert scorer.calibration_distances().tolist() == [12.5, 17.0, 20.5, 74.5]


def test_knn_calibration_keeps_duplicates_as_neighbors(normal: Tensor) -> None:
    """Itself is left out by position, so a copy of an image still is its neighbour at distance 0."""
    bank = torch.cat([normal, normal[:5]])
    scorer = KNNScorer(2)
    scorer.fit(bank)
    np.testing.assert_allclose(
        scorer.calibration_distances(), reference.leave_one_out_knn(bank.numpy(), 2), rtol=1e-5, atol=1e-9
    )


def test_search_in_blocks_equals_brute_force(monkeypatch: pytest.MonkeyPatch, normal: Tensor, queries: Tensor) -> None:
    """Neighbours from several blocks of the bank are merged; each block holds some of them."""
    monkeypatch.setattr(search, "_BLOCK", 7)
    scorer = KNNScorer(5)
    scorer.fit(normal)
    np.testing.assert_allclose(scorer(queries), reference.knn(queries.numpy(), normal.numpy(), 5), rtol=1e-5, atol=1e-9)
    expected = reference.leave_one_out_knn(normal.numpy(), 5)
    np.testing.assert_allclose(scorer.calibration_distances(), expected, rtol=1e-5)


def test_search_never_holds_the_distance_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of the search is as large as queries x bank."""
    monkeypatch.setattr(search, "_BLOCK", 128)
    bank = torch.rand(4096, 4)
    mean, norms = search.mean_and_norms(bank)
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Sizes():
        search.nearest(torch.rand(64, 4), bank, mean, norms, 2)
    assert largest < 64 * 4096 / 4


def test_knn_names_its_neighbors() -> None:
    """Positions and distances, nearest first."""
    scorer = KNNScorer(1)
    scorer.fit(SQUARE)
    distances, positions = scorer.neighbors(torch.tensor([[2.0, 0.0]]), 3)
    assert positions.tolist() == [[1, 0, 2]]
    assert distances.tolist() == [[1.0, 4.0, 20.0]]


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
def test_index_finds_what_exact_search_finds(index: str, rng: np.random.Generator) -> None:
    """Candidates of the index are ranked exactly: a found neighbour has its exact distance, most are found."""
    bank = torch.from_numpy(rng.normal(size=(3000, 16)).astype(np.float32))
    queries = torch.from_numpy(rng.normal(size=(50, 16)).astype(np.float32))
    approximate, exact = KNNScorer(2, index=index), KNNScorer(2)
    approximate.fit(bank)
    exact.fit(bank)
    same = torch.isclose(approximate(queries), exact(queries), rtol=1e-6)
    assert same.float().mean() > (0.999 if index == "flat" else 0.5)
    assert bool((approximate(queries) >= exact(queries) * (1 - 1e-6)).all())
    assert approximate.recall() == pytest.approx(1.0) if index == "flat" else 0.5 < approximate.recall() <= 1
    # the index is a cache: state and copies live without it
    again = KNNScorer(2, index=index)
    again.load_state_dict(approximate.state_dict())
    torch.testing.assert_close(again(queries), approximate(queries), rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(approximate))(queries), approximate(queries), rtol=0, atol=0)  # noqa: S301 - our own bytes


def test_kmeans_with_one_mean_ranks_as_center(normal: Tensor, queries: Tensor) -> None:
    """S3 with C = 1 is S4, up to the square root."""
    kmeans, center = KMeansScorer(1), CenterScorer()
    kmeans.fit(normal)
    center.fit(normal)
    np.testing.assert_allclose(kmeans(queries).square(), center(queries), rtol=1e-4)


def test_kmeans_with_as_many_means_as_images_is_knn(normal: Tensor, queries: Tensor) -> None:
    """S3 with C = N is S2 of unsquared distances, summed."""
    kmeans, knn = KMeansScorer(len(normal)), KNNScorer(2, distance="euclidean", reduction="sum")
    kmeans.fit(normal)
    knn.fit(normal)
    np.testing.assert_allclose(kmeans(queries), knn(queries), rtol=1e-4)


def test_kmeans_names_the_images_nearest_to_its_means() -> None:
    """Two far clusters: the representative of each is the image nearest to its mean."""
    clusters = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [50.0, 0.0], [50.0, 1.0], [50.0, 2.0]])
    scorer = KMeansScorer(2, num_neighbors=1)
    scorer.fit(clusters)
    distances, positions = scorer.neighbors(torch.tensor([[49.0, 1.0]]), 1)
    assert positions.tolist() == [[4]]
    assert distances.tolist() == [[1.0]]
    assert scorer(torch.tensor([[49.0, 1.0]])).tolist() == [1.0]


def test_center_by_hand() -> None:
    """METHODS section 7: mean (3.25, 1.0)."""
    scorer = CenterScorer()
    scorer.fit(SQUARE)
    assert scorer(SQUARE).tolist() == [11.5625, 1.0625, 19.5625, 46.5625]
    rows = SQUARE.numpy()
    left_out = [((rows[i] - np.delete(rows, i, axis=0).mean(axis=0)) ** 2).sum() for i in range(4)]
    np.testing.assert_allclose(scorer.calibration_distances(), left_out, rtol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_whitening_equals_reference(shrinkage: float, normal: Tensor, queries: Tensor) -> None:
    """Distances after whitening, and the squared norm, equal those by singular value decomposition in float64."""
    white, bank = (reference.whiten(rows.numpy(), normal.numpy(), 6, shrinkage) for rows in (queries, normal))
    for score, expected in (("knn", reference.knn(white, bank, 2)), ("center", (white**2).sum(axis=1))):
        scorer = WhiteningScorer(6, score=score, shrinkage=shrinkage)
        scorer.fit(normal)
        np.testing.assert_allclose(scorer(queries), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("count", [6, 30])
def test_shrunk_whitening_of_all_directions(count: int, rng: np.random.Generator) -> None:
    """Also with fewer images than dimensions: directions without variance count by the shrunk eigenvalue."""
    bank, queries = rng.normal(size=(count, 10)).astype(np.float32), rng.normal(size=(4, 10)).astype(np.float32)
    covariance = np.cov(bank.astype(np.float64).T)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / 10 * np.eye(10)
    expected = [
        np.sort([(query - row) @ np.linalg.inv(shrunk) @ (query - row) for row in bank.astype(np.float64)])[:2].mean()
        for query in queries.astype(np.float64)
    ]
    scorer = WhiteningScorer(None, shrinkage=0.3)
    scorer.fit(torch.from_numpy(bank))
    np.testing.assert_allclose(scorer(torch.from_numpy(queries)), expected, rtol=1e-4)


def test_whitening_calibration_leaves_each_image_out_of_axes_and_bank(rng: np.random.Generator) -> None:
    """With as many folds as images, calibration is leave-one-out: axes of the others, neighbours among the others."""
    bank = rng.normal(size=(8, 3)).astype(np.float32)
    scorer = WhiteningScorer(None, shrinkage=0.5, num_neighbors=2)
    scorer.fit(torch.from_numpy(bank))
    expected = []
    for i in range(8):
        rest = np.delete(bank, i, axis=0).astype(np.float64)
        covariance = np.cov(rest.T)
        inverse = np.linalg.inv(0.5 * covariance + 0.5 * np.trace(covariance) / 3 * np.eye(3))
        expected.append(np.sort([(bank[i] - row) @ inverse @ (bank[i] - row) for row in rest])[:2].mean())
    np.testing.assert_allclose(scorer.calibration_distances(), expected, rtol=1e-4)


def test_whitening_of_everything_makes_a_simplex() -> None:
    """METHODS section 7: three points, all components: 4/3 from the mean, 4 from each other."""
    points = torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0], [0.0, 5.0, 3.0]])
    center, knn = WhiteningScorer(2, shrinkage=0, score="center"), WhiteningScorer(2, shrinkage=0, num_neighbors=1)
    center.fit(points)
    knn.fit(points)
    np.testing.assert_allclose(center(points), [4 / 3] * 3, rtol=1e-5)
    np.testing.assert_allclose(knn.neighbors(points, 3)[0][:, 1:], np.full((3, 2), 4.0), rtol=1e-5)


@pytest.mark.parametrize(("nu", "gamma"), [(0.5, None), (0.1, 0.02)])
def test_ocsvm_is_scikit_learns(nu: float, gamma: float | None, normal: Tensor, queries: Tensor) -> None:
    """Its decision function with the sign turned, but for a shift and the sum of the weights."""
    scorer = OCSVMScorer(nu, gamma=gamma)
    scorer.fit(normal)
    machine = OneClassSVM(nu=nu, gamma=gamma or "scale", tol=1e-6).fit(normal.double().numpy())
    similarity = machine.score_samples(queries.double().numpy()) / machine.dual_coef_.sum()
    np.testing.assert_allclose(scorer(queries), 1 - similarity, rtol=1e-4, atol=1e-6)
    assert len(scorer.support) >= nu * len(normal)


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_state_loads_into_an_unfitted_scorer(scorer: Scorer, normal: Tensor, queries: Tensor) -> None:
    """A bank of any length comes back bit for bit."""
    fitted, fresh = copy.deepcopy(scorer), copy.deepcopy(scorer)
    fitted.fit(normal)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(queries), fitted(queries))
    assert torch.equal(fresh.calibration_distances(), fitted.calibration_distances())


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_a_fresh_image_is_as_far_as_calibration_says(scorer: Scorer, rng: np.random.Generator) -> None:
    """Calibration distances are those of images not seen: fitted images themselves are nearer, fresh ones are not."""
    sample = torch.from_numpy((rng.normal(size=(400, 12)) + 3).astype(np.float32))
    fitted = copy.deepcopy(scorer)
    fitted.fit(sample[:200])
    calibration, fresh = fitted.calibration_distances(), fitted(sample[200:])
    assert len(calibration) == 200
    assert abs(calibration.median() - fresh.median()) < 0.15 * fresh.median()  # folds fit on nine tenths
    assert (fresh > calibration.quantile(0.9)).float().mean() == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_order_of_the_images_does_not_matter(scorer: Scorer, normal: Tensor, queries: Tensor) -> None:
    """A permuted bank gives the same distances (K-means starts elsewhere, so up to its local optimum)."""
    one, other = copy.deepcopy(scorer), copy.deepcopy(scorer)
    one.fit(normal)
    other.fit(normal.flip(0))
    torch.testing.assert_close(one(queries), other(queries), rtol=0.2 if "KMeans" in repr(scorer) else 1e-3, atol=1e-5)


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_distance_does_not_depend_on_the_batch(scorer: Scorer, rng: np.random.Generator) -> None:
    """Alone or among others, the same image gets the same distance bit for bit."""
    bank = torch.from_numpy(rng.normal(size=(500, 96)).astype(np.float32))
    queries = torch.from_numpy(rng.normal(size=(64, 96)).astype(np.float32))
    fitted = copy.deepcopy(scorer)
    fitted.fit(bank)
    together = fitted(queries)
    alone = torch.cat([fitted(query[None]) for query in queries])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_embeddings_given_back_are_those_of_the_fit(scorer: Scorer, normal: Tensor) -> None:
    """Bit for bit or not at all: a bank that is changed is fitted on them again."""
    assert copy.deepcopy(scorer).fitted_embeddings() is None
    scorer = copy.deepcopy(scorer)
    scorer.fit(normal)
    found = scorer.fitted_embeddings()
    assert (found is not None) == (isinstance(scorer, KNNScorer) and scorer.distance != "cosine")
    assert found is None or torch.equal(found, normal)


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_explain_scores_as_forward(scorer: Scorer, normal: Tensor, queries: Tensor) -> None:
    """One pass for both gives the very same distances, however many neighbours are shown."""
    fitted = copy.deepcopy(scorer)
    fitted.fit(normal)
    for shown in (0, 1, 5):
        assert torch.equal(fitted.explain(queries, shown)[0], fitted(queries))


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_unfitted_scorer_says_so(scorer: Scorer, queries: Tensor) -> None:
    """Neither distances nor calibration before fit."""
    with pytest.raises(RuntimeError, match="no normal images to compare with"):
        copy.deepcopy(scorer)(queries)
    with pytest.raises(RuntimeError, match="no normal images to compare with"):
        copy.deepcopy(scorer).calibration_distances()


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images(scorer: Scorer, count: int) -> None:
    """Nothing, or one image, is no training set."""
    with pytest.raises(ValueError, match=f"at least 2 normal images, got {count}"):
        copy.deepcopy(scorer).fit(torch.rand(count, 12))


@pytest.mark.parametrize("scorer", SCORERS, ids=IDS)
def test_embeddings_that_are_not_finite(scorer: Scorer, normal: Tensor) -> None:
    """They are counted, by image."""
    normal[3, 2], normal[5, 1], normal[5, 2] = torch.nan, torch.inf, torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in 2 of 40"):
        copy.deepcopy(scorer).fit(normal)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("knn", {"num_neighbors": 0}, "num_neighbors must be at least 1, got 0"),
        ("knn", {"distance": "l1"}, "distance must be squared, euclidean or cosine, got 'l1'"),
        ("knn", {"reduction": "max"}, "reduction must be mean or sum, got 'max'"),
        ("knn", {"index": "pq"}, "index must be exact, flat, ivf or hnsw, got 'pq'"),
        ("kmeans", {"num_means": 0}, "num_means must be at least 1, got 0"),
        ("kmeans", {"num_neighbors": 0}, "num_neighbors must be at least 1, got 0"),
        ("kmeans", {"distance": "cosine"}, "distance must be euclidean or squared, got 'cosine'"),
        ("whitening", {"n_components": 0}, "n_components must be a fraction between 0 and 1, a whole number"),
        ("whitening", {"n_components": 2.5}, "n_components must be a fraction between 0 and 1, a whole number"),
        ("whitening", {"shrinkage": 2}, "shrinkage must be between 0 and 1, got 2"),
        ("whitening", {"score": "max"}, "score must be knn or center, got 'max'"),
        ("center", {"num_neighbors": 3}, "scorer 'center' accepts no arguments, got num_neighbors"),
        ("knn", {"neighbors": 3}, "scorer 'knn' accepts num_neighbors, distance, reduction, index, got neighbors"),
        ("ocsvm", {"nu": 0}, "nu must be above 0 and at most 1, got 0"),
        ("ocsvm", {"gamma": 0.0}, "gamma must be above 0, got 0.0"),
        ("svm", {}, "scorer must be one of knn, kmeans, center, whitening, ocsvm, got 'svm'"),
    ],
)
def test_arguments_not_accepted(name: str, arguments: dict[str, object], message: str) -> None:
    """Each says what is accepted."""
    with pytest.raises(ValueError, match=message):
        make_scorer(name, **arguments)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (KNNScorer(41), "num_neighbors must be at most the number of normal images, 40, got 41"),
        (KMeansScorer(41), "num_means must be at most the number of normal images, 40, got 41"),
        (WhiteningScorer(13), "n_components must be at most 12 with 40 normal images of 12 dimensions, got 13"),
    ],
)
def test_more_asked_than_there_is(scorer: Scorer, message: str, normal: Tensor) -> None:
    """k, means and components are limited by the images."""
    with pytest.raises(ValueError, match=message):
        scorer.fit(normal)
