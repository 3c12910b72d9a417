"""The last lines of a training by command line: where the model is, and after the demo what to try next."""

from panda_anomalib.commands import PROGRAM
from panda_anomalib.data import Demo

__all__ = ["describe_training"]

_AFTER_DEMO = f"""
Next:
  your own images     {PROGRAM} detect --normal good/ --images new/
  another backbone    {PROGRAM} train --model Dn2 --model.backbone tf_efficientnet_lite1 --data Demo
  adaptation (PANDA)  {PROGRAM} train --model Panda --data Demo
  another photograph  {PROGRAM} train --model Dn2 --data Demo --data.category brick
"""


def describe_training(checkpoint: str | None, data: object) -> str:
    """Say where the checkpoint is, where there is one, and suggest commands if the demo was trained on.

    Args:
        checkpoint: Path of the checkpoint that the training has left.
        data: What was trained on.
    """
    model = f"The trained model is {checkpoint}\n" if checkpoint else ""
    return model + (_AFTER_DEMO if isinstance(data, Demo) else "")
