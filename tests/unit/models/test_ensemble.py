"""Sample-wise early stopping: the formula, one stem for all snapshots, saved and exported whole."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from PIL import Image
from torch import Tensor

from panda_anomalib import Dn2
from panda_anomalib.backbones import Backbone, EmbeddingNormalization
from panda_anomalib.data.reading import read_image
from panda_anomalib.models import export
from panda_anomalib.models.ensemble import EnsembleDetector, EnsembleScorer
from panda_anomalib.scorers import CenterScorer, KMeansScorer, KNNScorer, Scorer, WhiteningScorer

SCORERS: dict[str, Callable[[], Scorer]] = {
    "knn": KNNScorer,
    "kmeans": lambda: KMeansScorer(num_means=4),
    "center": CenterScorer,
    "whitening": WhiteningScorer,
}


def rows(rng: np.random.Generator, count: int, snapshots: int = 3, dim: int = 6) -> Tensor:
    """Embeddings (N, S, D) with a spread of its own in each snapshot: without s_t the last would always decide."""
    spread = 10.0 ** np.arange(snapshots)[:, None]
    return torch.from_numpy((rng.normal(size=(count, snapshots, dim)) * spread).astype(np.float32))


def per_snapshot(queries: Tensor, bank: Tensor, distance: str) -> np.ndarray:
    """Distances (B, S) by the reference."""
    pairs = zip(queries.unbind(1), bank.unbind(1), strict=True)
    return np.stack([reference.knn(own.numpy(), rest.numpy(), 2, distance) for own, rest in pairs], axis=1)


@pytest.mark.parametrize("count", [10, 47])
@pytest.mark.parametrize("distance", ["squared", "euclidean", "cosine"])
def test_distance_is_that_of_the_formula(distance: Any, count: int, rng: np.random.Generator) -> None:
    """s_t from a tenth against the rest, images against all, the largest ratio; one split, one kind of distance."""
    bank, queries = rows(rng, count), rows(rng, 5)
    scorer = EnsembleScorer(KNNScorer(2, distance=distance), num_snapshots=3)
    scorer.fit(bank)
    held_out = np.random.default_rng(0).permutation(count)[: count // 10]
    typical = np.array([reference.typical_distance(own.numpy(), held_out, 2, distance) for own in bank.unbind(1)])
    np.testing.assert_allclose(scorer.typical_distances, typical, rtol=1e-5)
    expected = per_snapshot(queries, bank, distance) / typical
    np.testing.assert_allclose(scorer.snapshot_distances(queries), expected, rtol=1e-4)
    np.testing.assert_allclose(
        scorer(queries),
        reference.sample_wise_early_stopping(per_snapshot(queries, bank, distance), typical),
        rtol=1e-4,
    )


def test_distances_by_hand() -> None:
    """Units (2, 0.9): distances (4, 1.5) give 2 by the first; (3, 1.5) give 1.667 by the second, though 3 > 1.5."""
    scorer = EnsembleScorer(KNNScorer(1), num_snapshots=2)
    scorer.fit(torch.arange(0.0, 200.0, 10)[:, None, None].expand(20, 2, 1))
    scorer.typical_distances = torch.tensor([2.0, 0.9])
    queries = torch.tensor([[-(4.0**0.5), -(1.5**0.5)], [-(3.0**0.5), -(1.5**0.5)]])[..., None]
    assert scorer(queries).tolist() == pytest.approx([2.0, 1.5 / 0.9])
    assert reference.sample_wise_early_stopping(np.array([[4.0, 1.5]]), np.array([2.0, 0.9])) == pytest.approx([2.0])


def test_calibration_is_the_largest_left_out_ratio(rng: np.random.Generator) -> None:
    """Each normal image as in testing, but left out of its own neighbours."""
    bank = rows(rng, 23)
    scorer = EnsembleScorer(KNNScorer(), num_snapshots=3)
    scorer.fit(bank)
    left_out = np.stack([reference.leave_one_out_knn(own.numpy(), 2) for own in bank.unbind(1)], axis=1)
    expected = reference.sample_wise_early_stopping(left_out, scorer.typical_distances.numpy())
    np.testing.assert_allclose(scorer.calibration_distances(), expected, rtol=1e-4)
    uncalibrated = EnsembleScorer(KNNScorer(), num_snapshots=3)
    uncalibrated.fit(bank, calibrate=False)
    assert torch.isnan(uncalibrated.calibration).all()
    assert torch.equal(uncalibrated(bank), scorer(bank))


@pytest.mark.parametrize("name", SCORERS)
def test_one_snapshot_ranks_as_its_scorer(name: str, rng: np.random.Generator) -> None:
    """With S = 1 only the unit of distance differs, whatever the scorer."""
    bank, queries = rows(rng, 30, snapshots=1), rows(rng, 8, snapshots=1)
    ensemble, alone = EnsembleScorer(SCORERS[name](), num_snapshots=1), SCORERS[name]()
    ensemble.fit(bank)
    alone.fit(bank[:, 0])
    torch.testing.assert_close(ensemble(queries) * ensemble.typical_distances, alone(queries[:, 0]))
    torch.testing.assert_close(ensemble.calibration * ensemble.typical_distances, alone.calibration)


def test_neighbors_are_those_of_the_snapshot_that_decides(rng: np.random.Generator) -> None:
    """Positions from its bank, distances in its unit; both snapshots decide about some image."""
    bank = rows(rng, 30, snapshots=2)
    queries = torch.cat([bank[:4] + torch.tensor([[[0.0], [9.0]]]), bank[:4] + torch.tensor([[[4.0], [0.1]]])])
    scorer = EnsembleScorer(KNNScorer(2), num_snapshots=2)
    scorer.fit(bank)
    distances, neighbors = scorer.explain(queries, 3)
    assert neighbors is not None
    lengths, positions = neighbors
    winners = scorer.snapshot_distances(queries).argmax(dim=1).tolist()
    assert set(winners) == {0, 1}
    for row, winner in enumerate(winners):
        squared = reference.squared_distances(queries[row, winner][None].numpy(), bank[:, winner].numpy())[0]
        assert positions[row].tolist() == np.argsort(squared)[:3].tolist()
        expected = np.sort(squared)[:3] / scorer.typical_distances[winner].item()
        np.testing.assert_allclose(lengths[row], expected, rtol=1e-4)
    torch.testing.assert_close(lengths[:, :2].mean(dim=1), distances)
    torch.testing.assert_close(distances, scorer(queries))


def test_scorer_without_neighbors_names_none(rng: np.random.Generator) -> None:
    """The centre has no neighbours, and so has an ensemble of centres."""
    scorer = EnsembleScorer(CenterScorer(), num_snapshots=3)
    scorer.fit(rows(rng, 12))
    assert scorer.explain(rows(rng, 2), 3)[1] is None


@pytest.mark.parametrize("count", [2, 9])
def test_few_images_are_held_out_in_turn(count: int, rng: np.random.Generator) -> None:
    """A tenth of 9 images is none: the typical distance is the mean over all, each left out of its neighbours."""
    bank = rows(rng, count, snapshots=2)
    scorer = EnsembleScorer(KNNScorer(1), num_snapshots=2)
    scorer.fit(bank, calibrate=False)
    expected = [reference.leave_one_out_knn(own.numpy(), 1).mean() for own in bank.unbind(1)]
    np.testing.assert_allclose(scorer.typical_distances, expected, rtol=1e-5)


@pytest.mark.parametrize("count", [4, 40])
def test_duplicates_only_are_refused(count: int, rng: np.random.Generator) -> None:
    """Nothing can be divided by a typical distance of 0; the message names the snapshot."""
    bank = rows(rng, count, snapshots=2)
    bank[:, 1] = 1.0
    scorer = EnsembleScorer(KNNScorer(1), num_snapshots=2)
    with pytest.raises(ValueError, match=r"must be above 0, got 0 for snapshots \[1\] of 2; .* remove duplicates"):
        scorer.fit(bank)


def test_embeddings_not_accepted(rng: np.random.Generator) -> None:
    """Of another number of snapshots, of one image, not finite; and scoring before fitting."""
    scorer = EnsembleScorer(KNNScorer(), num_snapshots=3)
    with pytest.raises(ValueError, match=r"embeddings must be \(images, 3 snapshots, dimensions\), got \(9, 2, 6\)"):
        scorer.fit(rows(rng, 9, snapshots=2))
    with pytest.raises(ValueError, match="at least 2 normal images, got 1"):
        scorer.fit(rows(rng, 1))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 9"):
        scorer.fit(rows(rng, 9).index_fill(0, torch.tensor([4]), torch.nan))
    with pytest.raises(RuntimeError, match="EnsembleScorer has no normal images"):
        scorer(rows(rng, 9))


# ---- the detector


def backbone(name: str = "test_resnet") -> Backbone:
    """Small backbone with the same random weights every time."""
    torch.manual_seed(0)
    # of a fixed image size: torch.fx cannot follow the other kind
    arguments = {"dynamic_img_size": False} if name == "test_vit" else None
    return Backbone(name, weights="random", backbone_args=arguments)


def shifted_trunks(own: Backbone, count: int) -> dict[int, dict[str, Tensor]]:
    """Trunks as training might have left them after 10, 20, ... minibatches."""
    generator = torch.Generator().manual_seed(1)
    return {
        10 * (i + 1): {
            name: value * (1 + 0.2 * torch.randn(value.shape, generator=generator))
            for name, value in own.trunk_parameters().items()
        }
        for i in range(count)
    }


def detector(snapshots: int = 3, *, name: str = "test_resnet", scorer: Scorer | None = None) -> EnsembleDetector:
    """Detector with that many snapshots, not fitted."""
    own = backbone(name)
    built = EnsembleDetector(own, EmbeddingNormalization("l2"), scorer or KNNScorer())
    if snapshots:
        built.load_snapshots(shifted_trunks(own, snapshots))
    return built


def pictures(count: int, size: int = 64) -> Tensor:
    """Noise of differing contrast."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, size, size, generator=generator) * torch.linspace(0.2, 3, count)[:, None, None, None]


def fitted(snapshots: int = 3, **arguments: Any) -> EnsembleDetector:
    """Detector fitted on 20 pictures."""
    built = detector(snapshots, **arguments)
    with torch.no_grad():
        built.scorer.fit(built.embed(pictures(20)))
    return built


def test_each_snapshot_embeds_as_its_network_would() -> None:
    """As the whole network with the snapshot's weights in place, in the order of minibatches."""
    built = detector(3)
    trunks = shifted_trunks(backbone(), 3)
    built.load_snapshots({number: trunks[number] for number in (30, 10, 20)})
    assert built.minibatches.tolist() == [10, 20, 30]
    with torch.no_grad():
        found = built.embed(pictures(4))
        for position, trunk in enumerate(trunks.values()):
            whole = backbone()
            for name, parameter in whole.trunk_parameters().items():
                parameter.data = trunk[name]
            torch.testing.assert_close(found[:, position], built.normalization(whole(pictures(4))))
    assert built.snapshots().keys() == trunks.keys()
    assert all(torch.equal(built.snapshots()[20][name], value) for name, value in trunks[20].items())


def test_the_network_in_training_is_not_touched() -> None:
    """Its trunk keeps its weights and stays trainable; the snapshots are not, and share its stem."""
    own = backbone()
    before = {name: value.clone() for name, value in own.network.state_dict().items()}
    for parameter in own.trunk_parameters().values():
        parameter.requires_grad_()
    built = EnsembleDetector(own, EmbeddingNormalization("l2"), KNNScorer())
    built.load_snapshots(shifted_trunks(own, 2))
    assert all(torch.equal(value, before[name]) for name, value in own.network.state_dict().items())
    assert all(parameter.requires_grad for parameter in own.trunk_parameters().values())
    trainable = {name for name, parameter in built.named_parameters() if parameter.requires_grad}
    assert trainable == {f"backbone.network.{name}" for name in own.trunk_parameters()}
    assert built.members[1].network.conv1[0].weight is own.network.conv1[0].weight


@pytest.mark.parametrize("runtime", [None, "eager", "channels_last"])
@pytest.mark.parametrize("snapshots", [1, 4])
def test_stem_runs_once_whatever_the_number_of_snapshots(snapshots: int, runtime: Any) -> None:
    """One call of its first layer for a batch; each trunk runs once, too."""
    built = fitted(snapshots)
    calls = {"stem": 0, "trunk": 0}

    def count(part: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[part] += 1

        return hook

    built.backbone.network.conv1.register_forward_hook(count("stem"))
    for member in built.members:
        member.network.layer3.register_forward_hook(count("trunk"))
    if runtime is not None:
        built.runtime = built.make_runtime(runtime)
    with torch.no_grad():
        built(pictures(5))
    assert calls == {"stem": 1, "trunk": snapshots}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("runtime", ["eager", "channels_last", "openvino"])
def test_runtimes_agree(runtime: Any, name: str) -> None:
    """Stem and trunks each by its own; a ViT hands tokens over. A smaller second batch is filled up."""
    if runtime == "openvino":
        pytest.importorskip("openvino")
    images = pictures(5, 160 if name == "test_vit" else 64)
    built = detector(2, name=name)
    with torch.no_grad():
        expected = built.embed(images)
        built.runtime = built.make_runtime(runtime)
        found = torch.cat([built.embed(images[:3]), built.embed(images[3:])])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # embeddings have unit length
    assert (expected[:, 0] - expected[:, 1]).norm(dim=1).min() > 1e-3, "snapshots alike show nothing"


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("there", [0, 2, 5])
def test_saved_state_loads_into_any_instance(there: int, name: str) -> None:
    """Weights, banks and units come from the file, into more or fewer snapshots, without the weight file."""
    saved = fitted(3, scorer=SCORERS[name]())
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other = Backbone("test_resnet", weights="no such file.safetensors") if there == 0 else backbone()
    empty = EnsembleDetector(other, EmbeddingNormalization("l2"), SCORERS[name]())
    if there:
        empty.load_snapshots(shifted_trunks(other, there))
    empty.load_state_dict(torch.load(file, weights_only=True))
    assert empty.minibatches.tolist() == [10, 20, 30]
    with torch.no_grad():
        assert torch.equal(empty(pictures(6)).pred_score, saved(pictures(6)).pred_score)
    assert torch.equal(empty.scorer.calibration, saved.scorer.calibration)
    assert empty.members[2].network.conv1[0].weight is empty.backbone.network.conv1[0].weight


def test_state_of_unfinished_training_loads() -> None:
    """A checkpoint from before the first snapshot, into a model that has some: they are gone."""
    model = fitted(3)
    model.load_state_dict(detector(0).state_dict())
    assert len(model.members) == len(model.scorer.scorers) == 0
    with pytest.raises(RuntimeError, match="there are no snapshots of the trunk yet; train the model"):
        model.embed(pictures(1))


def test_state_not_yet_fitted_loads() -> None:
    """Snapshots are there, their banks are not."""
    model = detector(0)
    model.load_state_dict(detector(2).state_dict())
    assert len(model.members) == len(model.scorer.scorers) == 2
    with pytest.raises(RuntimeError, match="has no normal images"):
        model(pictures(1))


def test_saved_file_holds_the_stem_once() -> None:
    """Each further snapshot adds its trunk and its bank, and no more; by its own tensors, not by shared storage."""

    def size(built: EnsembleDetector) -> int:
        file = io.BytesIO()
        torch.save({name: value.clone() for name, value in built.state_dict().items()}, file)
        return file.tell()

    one, five = fitted(1), fitted(5)
    own = {name for name in one.backbone.network.state_dict() if name.startswith(("layer3", "layer4"))}
    trunk = sum(value.nbytes for name, value in one.backbone.network.state_dict().items() if name in own)
    stem = sum(value.nbytes for value in one.backbone.network.state_dict().values()) - trunk
    bank = sum(value.nbytes for value in one.scorer.state_dict().values())
    overhead = (size(five) - size(one)) / 4 - trunk - bank
    assert 0 <= overhead < stem / 2  # names and alignment
    assert "backbone.network.conv1.0.weight" in one.state_dict()
    assert "members.0.network.conv1.0.weight" not in one.state_dict()
    assert "members.0.network.layer3.0.conv1.weight" in one.state_dict()


def test_snapshots_not_accepted() -> None:
    """None at all, of another network, of another shape."""
    built = detector(0)
    trunk = shifted_trunks(built.backbone, 1)[10]
    with pytest.raises(ValueError, match="snapshots must be at least one, got none; train for longer"):
        built.load_snapshots({})
    lacking = {name: value for name, value in trunk.items() if name != "layer4.0.conv1.weight"}
    with pytest.raises(ValueError, match=r"trunk of test_resnet, got .* after minibatch 20: layer4.0.conv1.weight;"):
        built.load_snapshots({10: trunk, 20: lacking})
    reshaped = {**trunk, "layer4.0.conv1.weight": trunk["layer4.0.conv1.weight"][:1]}
    with pytest.raises(ValueError, match=r"after minibatch 10: layer4.0.conv1.weight;"):
        built.load_snapshots({10: reshaped})


# ---- exports, by the code all models share


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Fourteen crops of a photograph, of differing shapes."""
    from skimage import data

    root, rng, paths = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for i in range(14):
        top, left = rng.integers(0, 200, 2)
        height, width = rng.integers(60, 310, 2)
        paths.append(str(root / f"{i:02}.png"))
        Image.fromarray(data.astronaut()[top : top + height, left : left + width]).save(paths[-1])
    return paths


def lightning_model(images: list[str], scorer: Scorer, snapshots: int = 3) -> Dn2:
    """A Lightning model of the family, with an ensemble in the detector's place, fitted on nine of the images."""
    model = Dn2("test_resnet", weights="random", resize=80, crop=64, false_positive_rate=0.5).eval()
    model.model = detector(snapshots, scorer=scorer)
    with torch.no_grad():
        embeddings = model.model.embed(torch.stack([prepared(model, path) for path in images[:9]]))
    model.fit_embeddings(embeddings, images[:9])
    return model


def prepared(model: Dn2, path: str) -> Tensor:
    """Image as the model takes it."""
    return model.pre_processor.transform(read_image(path)).as_subclass(Tensor)


@pytest.mark.filterwarnings("ignore")  # the exporters' own deprecations, many and changing
@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_export_agrees(kind: str, name: str, images: list[str], tmp_path: Path) -> None:
    """To 1e-4 and in every label, image by image and in a batch of 8."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    model = lightning_model(images, SCORERS[name]())
    path = getattr(model, f"to_{kind}")(tmp_path)
    run = export._RUNNERS[path.suffix](path)
    with torch.no_grad():
        expected = model.post_processor(model.model(torch.stack([prepared(model, own) for own in images])))
    found = [run(read_image(own).as_subclass(Tensor)[None].numpy()) for own in images]
    np.testing.assert_allclose(np.concatenate([score for score, _ in found]), expected.pred_score, atol=1e-4)
    assert np.concatenate([label for _, label in found]).tolist() == expected.pred_label.tolist()
    assert set(expected.pred_label.tolist()) == {True, False}
    one = read_image(images[0]).as_subclass(Tensor)
    together, _ = run(torch.stack([one, *(one * 0.9**i for i in range(1, 8))]).numpy())
    assert together.shape == (8,)
    assert together[0] == pytest.approx(expected.pred_score[0].item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_exported_file_holds_the_stem_once(kind: str, images: list[str], tmp_path: Path) -> None:
    """Four more snapshots add four trunks and banks; the network in training, which scores nothing, is not there."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")

    def size(snapshots: int) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = getattr(lightning_model(images, KNNScorer(), snapshots), f"to_{kind}")(tmp_path / str(snapshots))
        return sum(file.stat().st_size for file in path.parent.iterdir() if file.suffix in (".onnx", ".bin", ".data"))

    own = backbone()
    trunk = sum(value.nbytes for value in own.trunk_parameters().values())
    stem = sum(value.nbytes for value in own.stem.parameters())
    one, five = size(1), size(5)
    assert (five - one) / 4 < trunk + stem / 2  # with bank and the graph's nodes
    assert one < stem + 1.5 * trunk
