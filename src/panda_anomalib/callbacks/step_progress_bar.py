"""Lightning's progress bar, on standard error, that says what is done instead of which epoch it is."""

from typing import Any

from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

__all__ = ["StepProgressBar"]


class StepProgressBar(RichProgressBar):
    """Progress bar that asks the model what a pass over the training images is for.

    A model may name it in ``training_description``, to which the number of the pass is added where there are several;
    others have Lightning's *Epoch 0/9*.
    """

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})

    @property
    @override
    def test_description(self) -> str:
        return "Scores and pictures of test images"

    @property
    @override
    def predict_description(self) -> str:
        return "Scores and pictures"

    def _get_train_description(self, current_epoch: int) -> str:
        module: Any = self.trainer.lightning_module
        named: str | None = getattr(module, "training_description", None)
        if named is None:
            return super()._get_train_description(current_epoch)
        passes = self.trainer.max_epochs or 1
        return named if passes == 1 else f"{named}, pass {current_epoch + 1}{f' of {passes}' if passes > 0 else ''}"
