"""Names that tell models and data sets apart."""

from panda_anomalib.benchmark.labels import distinct_labels


def test_words_speak_for_themselves_and_numbers_are_named() -> None:
    """Only what differs is said, and a name that is alone is left alone."""
    arguments = [
        {"scorer": "knn", "visualizer": False},
        {"scorer": "kmeans", "scorer_args": {"num_means": 3}, "visualizer": False},
        {"visualizer": False},
        {"k": 7},
    ]
    labels = distinct_labels(["Dn2", "Dn2", "Dn2", "Padim"], arguments)
    assert labels == ["Dn2 knn", "Dn2 kmeans num_means=3", "Dn2", "Padim"]


def test_equal_arguments_have_one_label() -> None:
    """As the jobs of several seeds do."""
    assert distinct_labels(["A", "A", "A"], [{"k": 1}, {"k": 1}, {"k": 2}]) == ["A k=1", "A k=1", "A k=2"]


def test_a_word_of_two_arguments_is_named_with_both() -> None:
    """Or two models would share a label, and one row of the table would be lost."""
    labels = distinct_labels(["A", "A"], [{"pooling": "none"}, {"normalization": "none"}])
    assert labels == ["A pooling=none normalization=default", "A pooling=default normalization=none"]


def test_of_a_path_its_last_part_is_shown() -> None:
    """Results are published, the folders of a machine are not."""
    assert distinct_labels(["A", "A"], [{"root": "/home/me/one"}, {"root": "/home/me/two"}]) == ["A one", "A two"]
