"""The papers' numbers stand beside our own only where they mean the same."""

import pytest

from panda_anomalib.benchmark.report.published import class_key, counterpart, published


@pytest.mark.parametrize(
    ("dataset", "model_class", "scorer", "num_classes", "auroc"),
    [
        ("cifar10", "Dn2", "", 10, "92.5"),  # PANDA Tab. 1, unadapted
        ("CIFAR-10", "Dn2", "whitening", 10, "92.5"),
        ("cifar10", "Dn2", "kmeans", 10, "91.64"),  # DN2 Tab. 6, C = 10
        ("cifar10", "PandaSes", "knn", 10, "95.9"),  # PANDA Tab. 4
        ("cifar10", "PandaOe", "", 10, "98.9"),
        ("cifar10", "PandaJoint", "", 10, "93.2"),
        ("Fashion_MNIST", "Dn2", "knn", 10, "94.5"),
        ("MVTecAD", "Dn2", "", 15, "86.5"),  # PANDA Tab. 2
        ("cats_vs_dogs", "PandaEwc", "", 2, "97.3"),
        ("wbc", "Dn2", "", 4, "87.4"),
        ("mvtec", "Dn2", "", 1, None),  # a mean over fifteen is not one category's
        ("cifar10", "Dn2", "center", 10, None),  # not published unadapted
        ("cifar10", "Patchcore", "", 10, None),
        ("fashion_mnist_1000", "Dn2", "", 10, None),  # fewer images: another protocol
        ("my_photos", "Dn2", "", 10, None),
    ],
)
def test_counterpart(dataset: str, model_class: str, scorer: str, num_classes: int, auroc: str | None) -> None:
    """Value of the same method on the same protocol, else none."""
    row = counterpart(dataset, model_class, scorer, num_classes)
    assert (None if row is None else row["auroc"]) == auroc


def test_numbers_are_complete() -> None:
    """Every number has a method and a source and lies in percent; means of the papers' rows by class agree."""
    tables = [published(name) for name in ("cifar10", "cifar100", "fmnist", "wbc", "mvtec", "dior", "catsvsdogs")]
    for table in tables:
        assert len(table)
        assert (table["method"] != "").all()
        assert (table["source"] != "").all()
        assert table["auroc"].astype(float).between(48, 100).all()
    cifar10 = published("cifar10")
    for method, mean in {"MHRot": 90.1, "PANDA": 96.23, "MHRot, pretrained": 86.4}.items():
        rows = cifar10[(cifar10["method"] == method) & (cifar10["category"] != "")]
        assert len(rows) == 10
        assert rows["auroc"].astype(float).mean() == pytest.approx(mean, abs=0.06)


def test_recalled_numbers_are_not_published() -> None:
    """DN2's row by class could not be checked: of that paper's classes there is only the listed first one."""
    rows = published("cifar10")
    by_class = rows[(rows["method"] == "DN2") & (rows["category"] != "")]
    assert by_class["category"].tolist() == ["airplane"]
    assert "listing" in by_class["source"].item()


def test_class_names() -> None:
    """Numbers in front, case and separators do not matter."""
    assert class_key("7_Sneaker") == class_key("sneaker")
    assert class_key("7") == "7"
