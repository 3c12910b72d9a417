"""Every formula of the package once more in plain float64 numpy: slow, and short enough to believe."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def squared_distances(queries: Array, bank: Array) -> Array:
    """All pairs (B, N) of squared Euclidean distances, by differences."""
    return np.array([[((q - b) ** 2).sum() for b in bank.astype(np.float64)] for q in queries.astype(np.float64)])


def unit(rows: Array) -> Array:
    """Rows divided by their Euclidean norms."""
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def power_l2(rows: Array, power: float) -> Array:
    """Signed power, then unit length."""
    rows = rows.astype(np.float64)
    return unit(np.sign(rows) * np.abs(rows) ** power)


def knn(queries: Array, bank: Array, k: int, distance: str = "squared", reduction: str = "mean") -> Array:
    """Mean or sum over the k nearest (METHODS S2)."""
    if distance == "cosine":
        all_pairs = 1 - unit(queries) @ unit(bank).T
    else:
        all_pairs = squared_distances(queries, bank)
        if distance == "euclidean":
            all_pairs = np.sqrt(all_pairs)
    nearest = np.sort(all_pairs, axis=1)[:, :k]
    return nearest.mean(axis=1) if reduction == "mean" else nearest.sum(axis=1)


def leave_one_out_knn(bank: Array, k: int) -> Array:
    """Mean squared distance of each row to its k nearest others (METHODS S6)."""
    return np.array([knn(bank[i : i + 1], np.delete(bank, i, axis=0), k)[0] for i in range(len(bank))])


def cleaned(bank: Array, share: float, k: int = 2) -> tuple[list[int], list[int]]:
    """Positions kept, and those removed, most distant first, earlier ones first at one distance (METHODS S6)."""
    distances = leave_one_out_knn(bank, min(k, len(bank) - 1))
    order = sorted(range(len(bank)), key=lambda i: (-distances[i], i))
    removed = order[: round(share * len(bank))]
    return sorted(set(order) - set(removed)), removed


def whiten(queries: Array, training: Array, components: int, shrinkage: float = 0.0) -> Array:
    """PCA whitening by the singular value decomposition of the training rows (METHODS S5)."""
    training = training.astype(np.float64)
    mean = training.mean(axis=0)
    _, singular, directions = np.linalg.svd(training - mean, full_matrices=False)
    eigenvalues = (singular**2 / (len(training) - 1))[:components]
    eigenvalues = (1 - shrinkage) * eigenvalues + shrinkage * eigenvalues.mean()
    return (queries.astype(np.float64) - mean) @ directions[:components].T / np.sqrt(eigenvalues)


def set_embedding(rows: Array, pooling: str) -> Array:
    """Embedding of a set of images (METHODS S7)."""
    rows = rows.astype(np.float64)
    if pooling == "covariance_trace":
        return np.array([np.trace(np.atleast_2d(np.cov(rows, rowvar=False)))])
    return {"mean": rows.mean(axis=0), "max": rows.max(axis=0), "concatenation": np.concatenate(list(rows))}[pooling]


def conformal_threshold(distances: Array, rate: float) -> float:
    """Smallest calibration distance t with #{d <= t} >= (M + 1)(1 - rate); the largest when there is none."""
    count = len(distances)
    for candidate in np.sort(distances):
        if (distances <= candidate).sum() >= (count + 1) * (1 - rate) - 1e-9:
            return float(candidate)
    return float(distances.max())


def conformal_p_value(distance: float, calibration: Array) -> float:
    """(1 + #{calibration >= d}) / (M + 1)."""
    return (1 + int((calibration >= distance).sum())) / (len(calibration) + 1)


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resize_crop(image: Array, shorter: int, crop: int) -> Array:
    """Antialiased bicubic resize of the shorter side and centre crop, pixel by pixel; image (H, W)."""
    sides = image.shape
    full = [shorter * side // min(sides) for side in sides]

    def weights(length: int, resized: int) -> Array:
        scale = length / resized
        start = round((resized - crop) / 2)  # Python rounds half to even, as CenterCrop does
        rows = []
        for target in range(start, start + crop):
            centre = (target + 0.5) * scale
            row = np.array([cubic((source + 0.5 - centre) / max(scale, 1)) for source in range(length)])
            rows.append(row / row.sum())
        return np.array(rows)

    return weights(sides[0], full[0]) @ image.astype(np.float64) @ weights(sides[1], full[1]).T


def gem(positions: Array, exponent: float = 3.0) -> Array:
    """Generalised mean over positions (P, C) of positive activations."""
    return (np.maximum(positions.astype(np.float64), 1e-6) ** exponent).mean(axis=0) ** (1 / exponent)


def auroc(distances: Array, labels: Array) -> float:
    """Chance that an anomalous image is more distant than a normal one, ties count half."""
    pairs = distances[labels == 1][:, None] - distances[labels == 0][None]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def split_conformal_rank(count: int, rate: float) -> int:
    """Rank of the threshold among the sorted calibration distances, 1-based."""
    return min(max(math.ceil(round((count + 1) * (1 - rate), 9)), 1), count)


# models/ensemble.py


def typical_distance(bank: Array, held_out: Array, k: int, distance: str = "squared") -> float:
    """Mean kNN distance of the rows at positions ``held_out`` to all other rows (METHODS S9)."""
    return float(knn(bank[held_out], np.delete(bank, held_out, axis=0), k, distance).mean())


def sample_wise_early_stopping(distances: Array, typical: Array) -> Array:
    """Largest ratio over snapshots; distances (B, S), typical (S,) (METHODS S9)."""
    return np.array([max(d / s for d, s in zip(row, typical, strict=True)) for row in distances.astype(np.float64)])


# adaptation/collapse.py


def effective_rank(rows: Array) -> float:
    """Exponential of the entropy of the normalised eigenvalues of the covariance (Roy & Vetterli 2007)."""
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.astype(np.float64), rowvar=False))
    shares = eigenvalues[eigenvalues > 1e-12 * eigenvalues.max()] / eigenvalues.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def compactness(rows: Array, center: Array) -> float:
    """Squared distance to the centre, mean over images and over dimensions (METHODS S8)."""
    return float(np.mean([((row - center) ** 2).sum() / len(center) for row in rows.astype(np.float64)]))


def neighbor_preservation(before: Array, after: Array, k: int) -> float:
    """Share of each row's k nearest others before that are among its k nearest others after."""
    shares = []
    for i in range(len(before)):
        near = []
        for rows in (before, after):
            squared = squared_distances(rows[i : i + 1], rows)[0]
            squared[i] = np.inf
            near.append(set(np.argsort(squared)[:k].tolist()))
        shares.append(len(near[0] & near[1]) / k)
    return float(np.mean(shares))


def held_out_ratio(train: Array, held_out: Array, k: int) -> float:
    """Mean kNN distance of held-out rows to the training rows, by that of the training rows to the others."""
    return float(knn(held_out, train, k).mean() / leave_one_out_knn(train, k).mean())


# adaptation/objectives.py and models/adapted.py


def angular_center(rows: Array, center: Array) -> float:
    """Mean of 1 - cosine similarity to the centre."""
    return float(np.mean([1 - row @ center / (np.linalg.norm(row) * np.linalg.norm(center)) for row in rows]))


def mean_shifted_contrastive(first: Array, second: Array, center: Array, temperature: float) -> float:
    """NT-Xent of two views (B, D) on directions from the centre (Reiss & Hoshen 2021)."""
    directions = np.concatenate([unit(first - center), unit(second - center)])
    count, losses = len(first), []
    for i in range(2 * count):
        similar = {j: math.exp(directions[i] @ directions[j] / temperature) for j in range(2 * count) if j != i}
        losses.append(-math.log(similar[(i + count) % (2 * count)] / sum(similar.values())))
    return float(np.mean(losses))


def outlier_exposure(normal_logits: Array, outlier_logits: Array) -> float:
    """Binary cross-entropy over the joint batch, normal 0, outlier 1 (METHODS S13)."""
    losses = [math.log1p(math.exp(z)) for z in normal_logits] + [math.log1p(math.exp(-z)) for z in outlier_logits]
    return float(np.mean(losses))


def cross_entropy(logits: Array, labels: NDArray[np.integer]) -> float:
    """Mean over rows of -log softmax at the label."""
    rows = zip(logits.astype(np.float64), labels, strict=True)
    return float(np.mean([math.log(np.exp(row - row[label]).sum()) for row, label in rows]))


def sgd_step(
    weights: Array, gradient: Array, velocity: Array, *, clip: float, rate: float, momentum: float, decay: float
) -> tuple[Array, Array]:
    """Clip the whole gradient, then decay, then momentum: new weights and velocity (METHODS, facts 11 and 12)."""
    norm = np.linalg.norm(gradient)
    if norm > clip:
        gradient = gradient * clip / norm
    velocity = momentum * velocity + gradient + decay * weights
    return weights - rate * velocity, velocity


# callbacks.elastic_weight_consolidation


def ewc(parameters: Array, anchors: Array, fisher: Array, weight: float) -> tuple[float, Array]:
    """Penalty of PANDA's Eq. 4 and its gradient."""
    differences = parameters.astype(np.float64) - anchors
    return float(weight / 2 * (fisher * differences**2).sum()), weight * fisher * differences


# adaptation.synthetic


def shuffled(image: Array, order: NDArray[np.integer]) -> Array:
    """Piece ``order[i]`` of a 4 x 4 grid, counted row by row, in the place of piece i; image (C, H, W)."""
    height, width = image.shape[1] // 4, image.shape[2] // 4
    moved = image.copy()
    for place, source in enumerate(order):
        (to_row, to_column), (row, column) = divmod(place, 4), divmod(int(source), 4)
        piece = image[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        moved[:, to_row * height : (to_row + 1) * height, to_column * width : (to_column + 1) * width] = piece
    return moved


# benchmark/report/statistics


def auroc_covariance(distances: Array, labels: Array) -> Array:
    """DeLong's covariance (K, K) of the AUROCs of K scorings (K, M), by all pairs of images."""
    anomalous, normal = distances[:, labels == 1], distances[:, labels == 0]
    pairs = anomalous[:, :, None] - normal[:, None, :]
    won = (pairs > 0) + 0.5 * (pairs == 0)  # (K, anomalous, normal)
    count = len(distances)
    covariance = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            for axis in (1, 2):  # the other kind's images averaged out, then the spread over this kind's
                a, b = won.mean(axis=axis)[i], won.mean(axis=axis)[j]
                covariance[i, j] += ((a - a.mean()) * (b - b.mean())).sum() / (len(a) - 1) / len(a)
    return covariance


def holm(p_values: list[float]) -> list[float]:
    """Smallest level at which the step-down procedure rejects each, tried out."""

    def rejected(level: float) -> set[int]:
        found: set[int] = set()
        for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[i] > level / (len(p_values) - rank) + 1e-12:
                break
            found.add(i)
        return found

    levels = sorted({min(1.0, p * k) for p in p_values for k in range(1, len(p_values) + 1)})
    return [next((level for level in levels if i in rejected(level)), 1.0) for i in range(len(p_values))]


def binomial_tail(count: int, total: int, rate: float) -> float:
    """Chance of at least ``count`` of ``total``."""
    return sum(math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(count, total + 1))
