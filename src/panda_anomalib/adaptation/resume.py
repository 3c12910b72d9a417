"""How far a training is, and what Lightning's checkpoints lack for it to go on exactly where it stopped."""

from typing import Any

from lightning.pytorch import Trainer

__all__ = ["mend_progress", "minibatches_done"]


def minibatches_done(trainer: Trainer) -> int:
    """Minibatches since the beginning of training, by the trainer's own count, which checkpoints keep."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    done: int = progress.processed
    return done


def mend_progress(checkpoint: dict[str, Any]) -> None:
    """Correct, in place, the progress in a checkpoint that was saved when an epoch ended.

    Call it in ``on_load_checkpoint``: Lightning restores its loops from the same dictionary later. What is wrong with
    them (2.6): an epoch that ``max_steps`` stopped half-way counts as done, so its rest gets a number of its own, or
    is dropped where ``max_epochs`` is the limit. Of an epoch that did end, a run limited by steps takes one minibatch
    more, whose gradient is stepped alone under ``accumulate_grad_batches``. Checkpoints saved between two minibatches
    are right, and left alone.

    Lightning does not restore the position of a loader behind an epoch that ended. So also set, in ``on_train_start``,
    ``loader.position = minibatches_done(trainer)``.
    """
    if "loops" not in checkpoint:  # weights only: nothing to go on with
        return
    progress = checkpoint["loops"]["fit_loop"]
    epochs, minibatches = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
    if epochs["current"]["processed"] != epochs["current"]["ready"]:
        return
    for count in (epochs["total"], epochs["current"]):
        if not minibatches["is_last_batch"]:
            count["processed"] -= 1
        count["completed"] = count["processed"]
    if minibatches["is_last_batch"]:
        minibatches["current"] = dict.fromkeys(minibatches["current"], 0)
