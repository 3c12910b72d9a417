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


def whiten(queries: Array, training: Array, components: int, shrinkage: float = 0.0) -> Array:
    """PCA whitening by the singular value decomposition of the training rows (METHODS S5)."""
    training = training.astype(np.float64)
    mean = training.mean(axis=0)
    _, singular, directions = np.linalg.svd(training - mean, full_matrices=False)
    eigenvalues = (singular**2 / (len(training) - 1))[:components]
    eigenvalues = (1 - shrinkage) * eigenvalues + shrinkage * eigenvalues.mean()
    return (queries.astype(np.float64) - mean) @ directions[:components].T / np.sqrt(eigenvalues)


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
