r"""Collapse and its prevention, after PANDA's Fig. 1: AUROC and spread of the embeddings over the minibatches.

    python benchmarks/adaptation.py --root datasets/cifar10 --normal_class horse --variants collapse collapse_ewc \
        --train 500 --test 500 --at 5 10 20 40 60 --fisher fisher.safetensors --name cifar10_horse_collapse
    python benchmarks/figures.py

The snapshots of the ensemble are those of the run without regularisation, at the minibatches measured.
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

RESULTS = Path(__file__).parent / "results"
CURVES = {  # text: variant, column of AUROC, colour
    "no regularisation": ("collapse", "auroc", "#B3261E"),
    "snapshot ensemble (SES)": ("collapse", "ses_pretrained", "#9A6700"),
    "elastic weight consolidation (EWC)": ("collapse_ewc", "auroc", "#1B6E3C"),
}


def draw(name: str = "adaptation_cifar10_horse_collapse", readouts: tuple[str, ...] = ("knn_none", "default")) -> None:
    """Write the figure beside its numbers."""
    table = pd.read_csv(RESULTS / f"{name}.csv")
    figure, axes = plt.subplots(1, len(readouts) + 1, figsize=(4.6 * (len(readouts) + 1), 3.8), layout="constrained")
    titles = {"knn_none": "kNN on raw embeddings (the paper)", "default": "default readout"}
    for axis, readout in zip(axes, readouts, strict=False):
        rows = table[table["readout"] == readout]
        for text, (variant, column, color) in CURVES.items():
            own = rows[rows["variant"] == variant].sort_values("minibatch")
            axis.plot(own["minibatch"], 100 * own[column], "o-", color=color, label=text, markersize=4)
        axis.set(title=titles[readout], xlabel="minibatches of 32", ylabel="AUROC in percent")
    rows = table[table["readout"] == readouts[0]]
    for text, (variant, column, color) in CURVES.items():
        if column == "auroc":
            own = rows[rows["variant"] == variant].sort_values("minibatch")
            kept = own["variance"] / own["variance"].iloc[0]
            axes[-1].semilogy(own["minibatch"], kept, "o-", color=color, label=text, markersize=4)
    axes[-1].set(title="spread of the normal images", xlabel="minibatches of 32", ylabel="share of variance kept")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)


if __name__ == "__main__":
    mpl.use("agg")
    draw()
