"""The order of the memory bank."""

from pathlib import Path

import pytest
import torch

from panda_anomalib.models.embeddings import EmbeddingStore


def test_order_is_that_of_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of two folders, one given from where the command is run: later additions know absolute paths only."""
    inside = tmp_path / "m"
    inside.mkdir()
    monkeypatch.chdir(inside)
    store = EmbeddingStore()
    store.add(torch.tensor([[1.0], [2.0], [3.0]]), ["b.png", "../z/a.png", "../a/c.png"])
    embeddings, paths = store.gather()
    assert paths == ["../a/c.png", "b.png", "../z/a.png"]
    assert embeddings.flatten().tolist() == [3.0, 1.0, 2.0]


def test_images_without_paths_keep_their_order() -> None:
    """There is nothing to sort them by."""
    store = EmbeddingStore()
    store.add(torch.tensor([[2.0], [1.0]]), None)
    store.add(torch.tensor([[0.0]]), None)
    assert store.gather()[0].flatten().tolist() == [2.0, 1.0, 0.0]
