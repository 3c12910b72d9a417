"""Adaptation through anomalib's Engine: what is trained, for how long, what is kept, and that it can be resumed."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import timm
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from PIL import Image
from runs import SMALL, engine, one_class, seeded
from torchvision.transforms.v2 import RandomHorizontalFlip

from panda_anomalib.callbacks.collapse_monitor import CollapseMonitor
from panda_anomalib.callbacks.elastic_weight_consolidation import ElasticWeightConsolidation
from panda_anomalib.callbacks.label_free_stop import LabelFreeStop
from panda_anomalib.data.reading import read_image
from panda_anomalib.models.panda import Panda
from panda_anomalib.models.panda_ewc import PandaEwc
from panda_anomalib.models.panda_joint import PandaJoint
from panda_anomalib.models.panda_oe import PandaOe
from panda_anomalib.models.panda_ses import PandaSes

FAST = {"minibatches": 5, "learning_rate": 0.05, "gradient_clip": 0.1}


def adapt(root: Path, folder: Path, model: Any = None, *, data: Any = None, **trainer: Any) -> tuple[Any, Engine]:
    """Fit a small model."""
    model = seeded(Panda, **FAST) if model is None else model
    run = engine(folder, **trainer)
    run.fit(model, datamodule=one_class(root) if data is None else data)
    return model, run


def inputs(model: Any, paths: Iterable[str | Path]) -> torch.Tensor:
    """What the network takes of image files."""
    images = [model.pre_processor.transform(read_image(path)) for path in paths]
    return torch.stack(images).as_subclass(torch.Tensor)


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Copy of the backbone's parameters and buffers."""
    return {name: value.clone() for name, value in model.model.backbone.network.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_training_follows_the_formulas(photographs: Path, tmp_path: Path) -> None:
    """Three steps of the plain recipe (whole network, no cache, numpy optimiser) lead to the same weights."""
    settings = {"minibatches": 3, "learning_rate": 0.03, "gradient_clip": 0.01, "weight_decay": 0.02}
    model = seeded(Panda, **settings, calibration_share=0)
    seen: list[list[int]] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:  # noqa: ARG002
            seen.append(trainer.train_dataloader.order.indices(pl_module.minibatches_done))

    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=0).eval()
    data = one_class(photographs)
    adapt(photographs, tmp_path, model, data=data, callbacks=[Watch()])

    plain.load_state_dict(seeded(Panda, **settings).model.backbone.network.state_dict())
    images = torch.stack(
        [model.pre_processor.transform(read_image(path)) for path in data.train_data.samples.image_path]
    )
    images = images.as_subclass(torch.Tensor)
    trained = {
        name: parameter for name, parameter in plain.named_parameters() if name.startswith(("stages.2", "stages.3"))
    }
    trained = trained or {n: p for n, p in plain.named_parameters() if n.startswith(("layer3", "layer4"))}
    with torch.no_grad():
        center = plain(images).double().numpy().mean(axis=0)
    velocity = np.zeros(sum(parameter.numel() for parameter in trained.values()))
    for indices in seen:
        embeddings = plain(images[indices])
        loss = ((embeddings - torch.from_numpy(center).float()) ** 2).sum(dim=1).mean() / embeddings.shape[1]
        assert float(loss.detach()) == pytest.approx(
            reference.compactness(embeddings.detach().numpy(), center), rel=1e-4
        )
        gradients = torch.autograd.grad(loss, list(trained.values()))
        flat = np.concatenate([gradient.double().numpy().ravel() for gradient in gradients])
        before = np.concatenate([parameter.detach().double().numpy().ravel() for parameter in trained.values()])
        after, velocity = reference.sgd_step(before, flat, velocity, clip=0.01, rate=0.03, momentum=0.9, decay=0.02)
        parts = np.split(after, np.cumsum([parameter.numel() for parameter in trained.values()])[:-1])
        for parameter, part in zip(trained.values(), parts, strict=True):
            parameter.data = torch.from_numpy(part.reshape(parameter.shape)).float()

    adapted = model.model.backbone.network.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(adapted[name], value, rtol=2e-5, atol=2e-6, msg=name)


def test_only_the_trunk_moves(photographs: Path, tmp_path: Path) -> None:
    """Only the trunk moves."""
    before = weights(seeded(Panda, **FAST))
    model, _ = adapt(photographs, tmp_path)
    trunk = set(model.model.backbone.trunk_parameters())
    assert trunk
    for name, value in weights(model).items():
        # batch norm's scale and shift are trained, its statistics are not
        assert torch.equal(value, before[name]) == (name not in trunk), name
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_bank_and_threshold_are_of_the_adapted_network(photographs: Path, tmp_path: Path) -> None:
    """Bank and threshold are of the adapted network."""
    model, _ = adapt(photographs, tmp_path)
    with torch.no_grad():
        embeddings = model.model.backbone(inputs(model, model.training_paths))
    torch.testing.assert_close(model.model.scorer.memory_bank, embeddings, rtol=1e-4, atol=1e-5)

    held_out = model.held_out.numpy()
    assert len(held_out) == 15  # at least 20 are wanted, at most half of 30 taken
    assert not set(held_out) & {i for p in range(8) for i in run_order(model).indices(p)}
    expected = reference.leave_one_out_knn(embeddings.double().numpy(), 2)[held_out]
    np.testing.assert_allclose(model.post_processor.distances, np.sort(expected), rtol=1e-3)
    assert float(model.post_processor.threshold) == pytest.approx(
        reference.conformal_threshold(expected, 0.05), rel=1e-3
    )


def run_order(model: Any) -> Any:
    """The order of the minibatches that the model was trained with."""
    from panda_anomalib.adaptation.minibatches import MinibatchOrder

    return MinibatchOrder(30, 8, seed=0, left_out=model.held_out.tolist())


class Kill(Checkpoint):
    """Ends a run in the middle, as if the process had been killed behind its last checkpoint."""

    def __init__(self, after: int, checkpoint: Path) -> None:
        self.after = after
        self.checkpoint = checkpoint

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:  # noqa: ARG002
        """Save, then fail."""
        if trainer.fit_loop.epoch_loop.batch_progress.total.processed == self.after:
            trainer.save_checkpoint(self.checkpoint)
            raise KeyError("killed")


VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "panda": (Panda, FAST),
    "contrastive": (Panda, {**FAST, "objective": "mean_shifted_contrastive", "objective_normalization": "l2"}),
    "ses": (PandaSes, {**FAST, "every_n_minibatches": 2}),
    "ewc": (PandaEwc, {**FAST, "weight": 50.0}),
    "l2": (PandaEwc, {**FAST, "anchor": "l2", "weight": 0.5}),
    "oe": (PandaOe, {**FAST, "scorer": "logit"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("after", [2, 3])
def test_resumed_run_equals_uninterrupted(variant: str, after: int, photographs: Path, tmp_path: Path) -> None:
    """Resumed run equals uninterrupted."""
    kind, arguments = VARIANTS[variant]
    if variant == "oe":
        arguments = {**arguments, "outliers": str(photographs / "coffee")}
    whole, _ = adapt(photographs, tmp_path / "whole", seeded(kind, **arguments))
    killer = Kill(after, tmp_path / "killed.ckpt")
    with pytest.raises(KeyError, match="killed"):
        adapt(photographs, tmp_path / "part", seeded(kind, **arguments), callbacks=[killer])
    torch.manual_seed(77)
    resumed = kind(**{**SMALL, **arguments})
    run = engine(tmp_path / "part")
    run.fit(resumed, datamodule=one_class(photographs), ckpt_path=tmp_path / "killed.ckpt")
    assert resumed.minibatches_done == whole.minibatches_done == 5
    expected, found = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    differing = [
        name for name, value in expected.items() if not torch.equal(value.nan_to_num(), found[name].nan_to_num())
    ]
    assert not differing


@pytest.mark.parametrize("kind", [Panda, PandaOe])
def test_weights_are_chosen_without_labels(kind: type, photographs: Path, tmp_path: Path) -> None:
    """The kept weights have the highest criterion of all, interrupted or not; it is theirs that the bank is made of."""
    arguments = {**FAST, "minibatches": 6, "learning_rate": 0.5, "gradient_clip": 10.0}
    if kind is PandaOe:
        arguments |= {"outliers": str(photographs / "coffee")}
    stops = [LabelFreeStop(2, patience=None) for _ in range(3)]
    whole, _ = adapt(photographs, tmp_path / "whole", seeded(kind, **arguments), callbacks=stops[:1])
    killer = Kill(3, tmp_path / "killed.ckpt")
    with pytest.raises(KeyError, match="killed"):
        adapt(photographs, tmp_path / "part", seeded(kind, **arguments), callbacks=[stops[1], killer])
    resumed = seeded(kind, **arguments)
    engine(tmp_path / "part", callbacks=[stops[2]]).fit(
        resumed, datamodule=one_class(photographs), ckpt_path=tmp_path / "killed.ckpt"
    )
    assert stops[0].history == stops[2].history
    assert list(stops[0].history) == [0, 2, 4, 6]
    best = max(stops[0].history, key=stops[0].history.__getitem__)
    assert stops[0].best_minibatch == best
    assert same(weights(whole), weights(resumed))
    plain, _ = adapt(photographs, tmp_path / "plain", seeded(kind, **{**arguments, "minibatches": max(best, 1)}))
    assert same(weights(whole), weights(plain)) == (best > 0)
    with torch.no_grad():
        bank = torch.cat([whole.model.embed(inputs(whole, [path])) for path in whole.training_paths[:3]])
    assert torch.allclose(whole.model.scorer.neighbors(bank, 1)[0], torch.zeros(3, 1), atol=1e-4)


def test_automatic_stop_needs_images_kept_out() -> None:
    """And an ensemble has nothing to stop."""
    with pytest.raises(ValueError, match="calibration_share must be above 0"):
        seeded(Panda, stop="auto", calibration_share=0)
    with pytest.raises(ValueError, match="stop of PandaSes must be constant"):
        seeded(PandaSes, stop="auto")
    with pytest.raises(ValueError, match="stop must be one of constant, auto"):
        seeded(Panda, stop="early")


def test_automatic_stop_is_one_argument(photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shorter than an interval: the beginning and the end are measured."""
    with caplog.at_level(logging.INFO):
        model, run = adapt(photographs, tmp_path, seeded(Panda, **FAST, stop="auto"))
    stop = next(callback for callback in run.trainer.callbacks if isinstance(callback, LabelFreeStop))
    assert list(stop.history) == [0, 5]
    assert f"Kept the weights after minibatch {stop.best_minibatch} of 5" in caplog.text
    assert same(weights(model), weights(seeded(Panda))) == (stop.best_minibatch == 0)


def test_checkpoint_before_the_end_has_no_bank(photographs: Path, tmp_path: Path) -> None:
    """Checkpoint before the end has no bank."""
    with pytest.raises(KeyError, match="killed"):
        adapt(photographs, tmp_path, callbacks=[Kill(2, tmp_path / "killed.ckpt")])
    with pytest.raises(RuntimeError, match="Panda was stopped after 2 minibatches, before it had a memory bank"):
        engine(tmp_path).test(
            seeded(Panda, **FAST), datamodule=one_class(photographs), ckpt_path=tmp_path / "killed.ckpt"
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_reloaded_model_gives_the_same_scores(variant: str, photographs: Path, tmp_path: Path) -> None:
    """Reloaded model gives the same scores."""
    kind, arguments = VARIANTS[variant]
    if variant == "oe":
        arguments = {**arguments, "outliers": str(photographs / "coffee")}
    model, run = adapt(photographs, tmp_path, seeded(kind, **arguments))
    paths = sorted((photographs / "coffee").iterdir())
    images = inputs(model, paths)
    restored = kind.load_from_checkpoint(run.trainer.checkpoint_callback.best_model_path)
    with torch.no_grad():
        expected, found = (m.eval().post_processor(m.model(images)) for m in (model, restored))
    assert torch.equal(expected.pred_score, found.pred_score)
    assert ((expected.pred_score > 0.5) == expected.pred_label).all()
    assert restored.minibatches_done == 5


@pytest.mark.parametrize("variant", ["ses", "oe"])
def test_exported_model_agrees(
    variant: str, photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The export compares itself with the model on real images, and fails when they disagree."""
    kind, arguments = VARIANTS[variant]
    if variant == "oe":
        arguments = {**arguments, "outliers": str(photographs / "coffee")}
    model, _ = adapt(photographs, tmp_path, seeded(kind, **arguments))
    with caplog.at_level(logging.INFO, logger="panda_anomalib"):
        assert model.to_onnx(tmp_path / "export").is_file()
    assert "largest difference of a score" in caplog.text


def test_user_limits_win(photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """User limits win."""
    with caplog.at_level(logging.INFO, logger="panda_anomalib"):
        model, _ = adapt(photographs, tmp_path / "steps", max_steps=2)
    assert model.minibatches_done == 2
    assert "max_steps=2 and max_epochs=-1 win over minibatches=5" in caplog.text
    model, _ = adapt(photographs, tmp_path / "epochs", max_epochs=3)
    assert model.minibatches_done == 3 * run_order(model).per_pass


def test_budget_counts_minibatches_under_accumulation(photographs: Path, tmp_path: Path) -> None:
    """Budget counts minibatches under accumulation."""
    model, run = adapt(photographs, tmp_path, accumulate_grad_batches=2)
    assert run.trainer.global_step == 3
    assert 5 <= model.minibatches_done <= 6


def test_second_fit_begins_with_the_unadapted_network(photographs: Path, tmp_path: Path) -> None:
    """Second fit begins with the unadapted network."""
    torch.manual_seed(0)
    source = timm.create_model("test_resnet", num_classes=0)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model, _ = adapt(photographs, tmp_path / "a", seeded(Panda, **{**FAST, "weights": str(tmp_path / "weights.pth")}))
    first = weights(model)
    adapt(photographs, tmp_path / "b", model)
    assert same(first, weights(model))


def test_augmentations_reach_training_but_not_the_bank(photographs: Path, tmp_path: Path) -> None:
    """Augmentations reach training but not the bank."""
    plain, _ = adapt(photographs, tmp_path / "a", seeded(Panda, **{**FAST, "learning_rate": 1e-12}))
    data = one_class(photographs, train_augmentations=RandomHorizontalFlip(p=1.0))
    frozen, _ = adapt(photographs, tmp_path / "b", seeded(Panda, **{**FAST, "learning_rate": 1e-12}), data=data)
    torch.testing.assert_close(frozen.model.scorer.memory_bank, plain.model.scorer.memory_bank, rtol=1e-4, atol=1e-5)
    moved, _ = adapt(photographs, tmp_path / "c")
    data = one_class(photographs, train_augmentations=RandomHorizontalFlip(p=1.0))
    flipped, _ = adapt(photographs, tmp_path / "d", data=data)
    assert not same(weights(moved), weights(flipped))


def test_loss_that_is_not_finite_stops(photographs: Path, tmp_path: Path) -> None:
    """Loss that is not finite stops."""
    model = seeded(Panda, minibatches=40, learning_rate=1e30, gradient_clip=None)
    with pytest.raises(RuntimeError, match=r"loss must be finite, got (nan|inf) at minibatch \d+"):
        adapt(photographs, tmp_path, model)


@pytest.mark.parametrize("batch_size", [7, 29, 64])
def test_minibatches_of_any_size(batch_size: int, photographs: Path, tmp_path: Path) -> None:
    """Minibatches of any size."""
    data = one_class(photographs, train_batch_size=batch_size)
    model, _ = adapt(photographs, tmp_path, seeded(Panda, **FAST, calibration_share=0), data=data)
    assert model.minibatches_done == 5
    assert len(model.training_paths) == 30


def test_training_on_all_images_is_said(photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Training on all images is said."""
    model, _ = adapt(photographs, tmp_path, seeded(Panda, **FAST, calibration_share=0))
    assert "calibration_share is 0: the threshold comes from images that the network was trained on" in caplog.text
    assert model.post_processor.num_calibration == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trainable_stages": 9}, "trunk_stages must be at most"),
        ({"trainable_stages": 0}, "trainable_stages must be at least 1"),
        ({"minibatches": 0}, "minibatches must be at least 1"),
        ({"calibration_share": 0.7}, "calibration_share must be from 0 to 0.5"),
        ({"objective": "compact"}, "objective must be one of"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    """Bad arguments."""
    with pytest.raises(ValueError, match=message):
        seeded(Panda, **arguments)


def test_ensemble_scores_by_its_formula(photographs: Path, tmp_path: Path) -> None:
    """Ensemble scores by its formula."""
    model, _ = adapt(photographs, tmp_path, seeded(PandaSes, **FAST, every_n_minibatches=2, include_pretrained=True))
    assert model.model.minibatches.tolist() == [0, 2, 4]
    paths = [*model.training_paths, *map(str, sorted((photographs / "coffee").iterdir()))]
    images = inputs(model, paths)
    with torch.no_grad():
        members = [member(images).double().numpy() for member in model.model.members]
        found = model.model(images[30:]).pred_score.numpy()
    held_out = np.random.default_rng(0).permutation(30)[:3]
    typical = np.array([reference.typical_distance(rows[:30], held_out, 2) for rows in members])
    distances = np.stack([reference.knn(rows[30:], rows[:30], 2) for rows in members], axis=1)
    np.testing.assert_allclose(found, reference.sample_wise_early_stopping(distances, typical), rtol=1e-3)


def test_outliers_are_needed(photographs: Path, tmp_path: Path) -> None:
    """Outliers are needed."""
    for outliers in (None, str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="outliers must be a folder of images presumed anomalous"):
            adapt(photographs, tmp_path / "run", seeded(PandaOe, **FAST, outliers=outliers))


def test_outlier_exposure_has_no_other_objective() -> None:
    """Outlier exposure has no other objective."""
    with pytest.raises(ValueError, match="objective of PandaOe is its own"):
        seeded(PandaOe, objective="angular")


def test_ewc_without_weight_is_early_stopping(photographs: Path, tmp_path: Path) -> None:
    """A penalty of weight 0 changes no bit; a heavy one keeps the weights where they were."""
    plain, _ = adapt(photographs, tmp_path / "a")
    free, _ = adapt(photographs, tmp_path / "b", seeded(PandaEwc, **FAST, weight=0.0))
    assert same(weights(plain), weights(free))
    held, _ = adapt(photographs, tmp_path / "c", seeded(PandaEwc, **FAST, anchor="l2", weight=10.0))
    start = weights(seeded(Panda, **FAST))

    def moved(model: Any) -> float:
        return sum(float((value - start[name]).abs().sum()) for name, value in weights(model).items())

    assert moved(held) < 0.7 * moved(plain)


def test_fisher_file_must_fit(photographs: Path, tmp_path: Path) -> None:
    """Another backbone's file is refused before an image is read."""
    torch.save({}, tmp_path / "fisher.safetensors")
    with pytest.raises(ValueError, match=r"fisher file .* cannot be read"):
        adapt(photographs, tmp_path, seeded(PandaEwc, **FAST, fisher=str(tmp_path / "fisher.safetensors")))
    with pytest.raises(FileNotFoundError, match="fisher must be an existing file"):
        adapt(photographs, tmp_path, seeded(PandaEwc, **FAST, fisher=str(tmp_path / "nowhere.safetensors")))


def test_joint_optimisation_needs_its_images(photographs: Path, tmp_path: Path) -> None:
    """A folder per class of the classifier, or an error before an image is read."""
    with pytest.raises(ValueError, match="labelled must be a folder of pretraining images"):
        adapt(photographs, tmp_path, seeded(PandaJoint, **FAST))
    with pytest.raises(ValueError, match="a folder for each of the classifier's 1000 classes"):
        adapt(photographs, tmp_path, seeded(PandaJoint, **FAST, labelled=str(photographs)))


def test_joint_optimisation_trains_the_classifier_too(photographs: Path, tmp_path: Path) -> None:
    """Cross-entropy moves the head, which begins as the pretrained one."""
    picture = Image.open(next((photographs / "coffee").iterdir())).resize((64, 64))
    for number in range(1000):  # as many folders as the classifier has classes
        (tmp_path / f"labelled/{number:03}").mkdir(parents=True)
        picture.rotate(number / 3).save(tmp_path / f"labelled/{number:03}/image.png")
    model = seeded(PandaJoint, **{**FAST, "minibatches": 2}, labelled=str(tmp_path / "labelled"))
    untrained = {name: value.clone() for name, value in model.objective.classifier.state_dict().items()}
    adapt(photographs, tmp_path / "run", model)
    trained = model.objective.classifier.state_dict()
    assert not same(untrained, dict(trained))
    assert model.objective.compactness.center.shape == (96,)


def test_collapse_is_watched(photographs: Path, tmp_path: Path) -> None:
    """The monitor works on our models, sees images that were kept out of the training, and changes nothing."""
    plain, _ = adapt(photographs, tmp_path / "a")
    monitor = CollapseMonitor(every_n_minibatches=2, watch_test=True)
    watched, run = adapt(photographs, tmp_path / "b", callbacks=[monitor])
    assert same(weights(plain), weights(watched))
    assert [row["minibatch"] for row in monitor.history] == [0, 2, 4, 5]
    with torch.no_grad():
        held_out = watched.model.backbone(inputs(watched, [watched.training_paths[i] for i in watched.held_out]))
    expected = reference.compactness(held_out.numpy(), watched.adaptation_center().numpy())
    assert monitor.history[-1]["val_normal_distance"] == pytest.approx(expected, rel=1e-3)
    assert 0 <= monitor.history[-1]["test_auroc"] <= 1
    assert (Path(run.trainer.default_root_dir) / "collapse/collapse.png").is_file()


@pytest.mark.filterwarnings("ignore:You called .self.log")  # STFPM asks for a logger
def test_anomalibs_own_model_is_held(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STFPM's student moves less with an anchor than without, and nothing else of its training changes."""
    from anomalib.models import Stfpm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False}))

    def distance(name: str, callbacks: list[Callback]) -> float:
        torch.manual_seed(0)
        model = Stfpm(backbone="resnet10t", layers=["layer1", "layer2"], visualizer=False)
        student = model.model.student_model
        before = [parameter.detach().clone() for parameter in student.parameters()]
        run = engine(tmp_path / name, max_steps=3, max_epochs=1, limit_val_batches=0, callbacks=callbacks)
        run.fit(model, datamodule=one_class(photographs, num_workers=0))
        return sum(
            float((now.detach() - then).square().sum()) for now, then in zip(student.parameters(), before, strict=True)
        )

    free = distance("free", [])
    held = distance("held", [ElasticWeightConsolidation(weight=1.0, module="model.student_model")])
    assert 0 < held < 0.9 * free
