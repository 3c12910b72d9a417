"""Figures of results: what is drawn over what, the numbers beside the picture, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmark_results import job, typical_results, write_results
from PIL import Image

from panda_anomalib.benchmark.figures import Drawn, draw_results

CLASSES = ["cat", "dog"]


def _counts(folder: Path, auroc: dict[tuple[str, int, str, int], float]) -> Path:
    """A study of training images, named as the runner names it: AUROC by scorer, images, class and seed."""
    jobs = [
        job(
            f"Dn2 {scorer}",
            f"cifar10 num_train={count}",
            category,
            seed,
            model__init_args__scorer=scorer,
            data__class_path="Cifar10",
            data__init_args__root="datasets/cifar10",
            data__init_args__normal_class=category,
            data__init_args__seed=seed,
            data__init_args__num_train=count,
            image_AUROC=value,
        )
        for (scorer, count, category, seed), value in auroc.items()
    ]
    return write_results(folder, [(row, None) for row in jobs])


@pytest.fixture
def study(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[tuple[str, int, str, int], float]]:
    """Two scorers, three numbers of images, two classes, three seeds."""
    keys = [(s, n, c, r) for s in ("knn", "center") for n in (10, 100, 1000) for c in CLASSES for r in (0, 1, 2)]
    auroc = {key: float(value) for key, value in zip(keys, rng.uniform(0.6, 1, len(keys)), strict=True)}
    return _counts(tmp_path / "results", auroc), auroc


def _means(folder: Path, rows: dict[str, Any]) -> Path:
    """K-means with three seeds of its own beside kNN, which has no number of means."""
    jobs = [
        job(
            f"Dn2 kmeans {means} {seed}",
            "cifar10",
            "cat",
            0,
            model__init_args__scorer="kmeans",
            model__init_args__scorer_args__num_means=means,
            model__init_args__scorer_args__seed=seed,
            image_AUROC=rows["kmeans"][means][seed],
        )
        for means in rows["kmeans"]
        for seed in range(3)
    ]
    jobs.append(job("Dn2 knn", "cifar10", "cat", 0, model__init_args__scorer="knn", image_AUROC=rows["knn"]))
    return write_results(folder, [(row, None) for row in jobs])


def _is_a_picture(drawn: Drawn) -> None:
    with Image.open(drawn.picture) as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
        assert picture.width > 500
        assert len(colours) > 20


def test_curve_over_what_varies(study: tuple[Path, dict[tuple[str, int, str, int], float]]) -> None:
    """The number of images is chosen as the axis and the scorer as the lines; means over classes, spread over seeds."""
    folder, auroc = study
    drawn = draw_results([folder])
    assert drawn.picture == folder / "figures/image_AUROC_by_num_train.png"
    _is_a_picture(drawn)
    assert drawn.lines == [
        "curve: image_AUROC over data.init_args.num_train, by model (x and by chosen by what varies); means over 2 "
        "classes; ± standard deviation over 3 seeds."
    ]
    table = pd.read_csv(drawn.table).set_index(["line", "data.init_args.num_train"])
    assert len(table) == 6
    for scorer in ("knn", "center"):
        for count in (10, 100, 1000):
            by_seed = [np.mean([auroc[scorer, count, name, seed] for name in CLASSES]) for seed in (0, 1, 2)]
            row = table.loc[f"Dn2 {scorer}", count]
            assert row["mean"] == pytest.approx(np.mean(by_seed))
            assert row["std"] == pytest.approx(np.std(by_seed, ddof=1))  # over seeds, not over classes
            assert (row["seeds"], row["jobs"]) == (3, 6)


def test_seeds_of_a_scorer_are_seeds(tmp_path: Path) -> None:
    """They are averaged, not lines of their own; a method without the number on the axis is level."""
    aurocs = {1: [0.80, 0.82, 0.84], 10: [0.90, 0.90, 0.93]}
    folder = _means(tmp_path / "results", {"kmeans": aurocs, "knn": 0.95})
    drawn = draw_results([folder], paper={"kmeans": {1.0: 91.94, 10.0: 91.64}, "kNN": {None: 92.52}})
    table = pd.read_csv(drawn.table)
    kmeans = table[table["line"] == "kmeans"].set_index("model.init_args.scorer_args.num_means")
    assert kmeans["mean"].to_dict() == pytest.approx({1: 0.82, 10: 0.91})
    assert kmeans["std"].to_dict() == pytest.approx({1: 0.02, 10: np.sqrt(3) / 100})
    (level,) = table[table["line"] == "knn"].to_dict("records")
    assert level["mean"] == 0.95
    assert np.isnan(level["model.init_args.scorer_args.num_means"])
    paper = table[table["line"].str.startswith("paper")]
    assert paper["line"].tolist() == ["paper: kmeans", "paper: kmeans", "paper: kNN"]
    assert paper["mean"].tolist() == pytest.approx([0.9194, 0.9164, 0.9252])
    assert "by model.init_args.scorer (" in drawn.lines[0]


def test_setting_that_each_model_has_its_own_of_is_no_axis(tmp_path: Path) -> None:
    """A length of training that follows from the model is not what was studied."""
    jobs = [
        job(name, "cifar10", category, 0, model__init_args__minibatches=length, image_AUROC=0.9)
        for name, length in (("Panda", 2355), ("PandaEwc", 7850), ("PandaSes", 4687))
        for category in CLASSES
    ]
    drawn = draw_results([write_results(tmp_path, [(row, None) for row in jobs])])
    assert drawn.lines[0].startswith("bars: image_AUROC over model (x and by chosen")


def test_table_of_methods_and_data_sets_beside_the_paper(tmp_path: Path) -> None:
    """Where the same method is published for as many classes, its value stands beside ours, and only there."""
    wbc = ["neutrophil", "lymphocyte", "monocyte", "eosinophil"]
    jobs = [
        job(model, dataset, category, 0, model__init_args__scorer=scorer, image_AUROC=value)
        for model, scorer, value in (("Dn2", "knn", 0.91), ("Padim", None, 0.81))
        for dataset, categories in (("wbc", wbc), ("cifar10", CLASSES))
        for category in categories
    ]
    drawn = draw_results([write_results(tmp_path, [(row, None) for row in jobs])])
    _is_a_picture(drawn)
    assert drawn.lines[0].startswith("heat: image_AUROC over dataset, by model")
    table = pd.read_csv(drawn.table).set_index(["line", "dataset"])
    assert table.loc[("Dn2", "wbc"), "paper"] == pytest.approx(0.874)
    assert table["paper"].notna().sum() == 1  # neither two of CIFAR-10's ten classes, nor a model of no paper
    assert table.loc[("Padim", "cifar10"), "mean"] == 0.81


def test_asked_for_words_and_another_metric(tmp_path: Path, rng: np.random.Generator) -> None:
    """Bars over classes of a metric that is no share; the classes are not averaged then."""
    folder = typical_results(tmp_path / "results", rng)
    drawn = draw_results([folder], x="category", by=["model"], metric="fit_seconds", kind="bars",
                         output=tmp_path / "shown/seconds.png")  # fmt: skip
    _is_a_picture(drawn)
    table = pd.read_csv(drawn.table)
    assert sorted(table["category"].unique()) == ["airplane", "cat", "lymphocyte", "monocyte"]
    assert set(table["mean"]) == {2.0}
    assert drawn.lines[0] == "bars: fit_seconds over category, by model; ± standard deviation over 2 seeds."
    assert "1 of 24 jobs failed and are missing." in drawn.lines


def test_missing_classes_and_averaged_settings_are_said(tmp_path: Path) -> None:
    """A mean that goes over fewer classes than its neighbours, and over what was not asked for, is no equal."""
    auroc = {("knn", count, name, 0): 0.9 for count in (10, 100) for name in CLASSES}
    auroc |= {("center", count, name, 0): 0.8 for count in (10, 100) for name in CLASSES}
    del auroc["knn", 10, "dog", 0]
    folder = _counts(tmp_path / "results", auroc)
    drawn = draw_results([folder])
    assert drawn.lines[1:] == [
        "1 of 4 means go over fewer classes than others, as jobs are missing: Dn2 knn at 10. Do not compare them."
    ]
    drawn = draw_results([folder], x="data.init_args.num_train", by=["accelerator"])
    assert "Means also go over model; name them in by to tell them apart." in drawn.lines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"x": "num_trian"}, r"x must be a column of the results, got 'num_trian'; the nearest are num_train"),
        ({"x": "zzz"}, r"got 'zzz'; what varies is model, dataset|got 'zzz'; what varies is model"),
        ({"by": ["scorr"]}, r"by must be a column of the results, got 'scorr'; the nearest are scorer"),
        ({"metric": "image_AUROCC"}, r"metric must be .* got 'image_AUROCC'; the nearest are image_AUROC"),
        ({"metric": "model"}, r"metric must be a column of numbers"),
        ({"x": "model", "by": ["model"]}, r"by must be another column than x, got 'model' for both"),
        ({"x": "model", "kind": "curve"}, r"x of a curve must be a number, got 'model' with words"),
        ({"kind": "pie"}, r"kind must be one of curve, bars, heat, got 'pie'"),
        ({"x": "model", "paper": {"kNN": {None: 92.5}}}, r"paper must go with a curve, got bars"),
        ({"output": "figure.svg"}, r"output must end in \.png, got 'figure\.svg'"),
    ],
)
def test_refused(
    study: tuple[Path, dict[tuple[str, int, str, int], float]], arguments: dict[str, Any], expected: str
) -> None:
    """Before anything is drawn, with what would be accepted."""
    with pytest.raises(ValueError, match=expected):
        draw_results([study[0]], **arguments)
    assert not (study[0] / "figures").exists()


def test_nothing_varies(tmp_path: Path) -> None:
    """One job is no study; a benchmark without a finished job is none either."""
    folder = write_results(tmp_path / "one", [(job("Dn2", "wbc", "monocyte", image_AUROC=0.9), None)])
    with pytest.raises(
        ValueError, match=r"results must vary in a setting, model, data set or class to be drawn, got 1"
    ):
        draw_results([folder])
    row = job("Dn2", "wbc", "monocyte", status="failed", error="RuntimeError: no")
    with pytest.raises(ValueError, match=r"results must have finished jobs, got 1 failed ones"):
        draw_results([write_results(tmp_path / "failed", [(row, None)])])
