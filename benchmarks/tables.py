"""Put the tables of README and docs together from ``results``: from ``<!-- table:NAME -->`` to ``<!-- end -->``.

python benchmarks/tables.py
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SETS = {"cifar10": "CIFAR-10", "mvtec_screw_512": "MVTec screw", "fashion_mnist_1000": "Fashion-MNIST", "wbc": "WBC"}
NAMES = {
    "default": "**default**: root + L2, shrunk whitening, kNN (k = 2)",
    "default_knn3": "default with k = 3",
    "gem_root_white_knn2": "default with GeM pooling",
    "root_knn2": "root + L2, kNN (k = 2)",
    "root_knn1": "root + L2, kNN (k = 1)",
    "root_knn5": "root + L2, kNN (k = 5)",
    "gem_root_knn2": "GeM, root + L2, kNN (k = 2)",
    "max_root_knn2": "max, root + L2, kNN (k = 2)",
    "avgmax_root_knn2": "avg + max, root + L2, kNN (k = 2)",
    "knn2_norm": "L2, kNN (k = 2)",
    "knn2": "papers' DN2: no normalisation, kNN (k = 2)",
    "km10": "papers' K-means, C = 10, 2 nearest means",
    "km10_norm": "L2, K-means, C = 10",
    "center": "centre",
    "center_norm": "L2, centre",
    "white256_knn": "PCA whitening to 256, kNN (k = 2)",
}
NETWORKS = {
    "tf_efficientnet_lite0": "Lite0, 3.4 M parameters, 224 pixels",
    "tf_efficientnet_lite1": "Lite1, 4.1 M, 240",
    "tf_efficientnet_lite2_224": "Lite2, 4.8 M, 224 instead of 260",
}
READOUTS = {"default": "default", "root_knn2": "root + L2, kNN", "knn2": "papers'"}
REFERENCE = {  # CIFAR-10 means measured without our code, with Pillow's 8-bit resize
    "knn2": 81.62, "knn2_norm": 88.72, "center": 78.93, "center_norm": 86.21, "km1": 78.93, "km3": 79.53, "km5": 79.73,
    "km10": 80.10, "km10_norm": 87.19, "white64_knn": 70.30, "white128_knn": 78.84, "white256_knn": 82.79,
    "white256_center": 82.16, "root_knn2": 91.51,
}  # fmt: skip


ADAPTED = {  # variant -> text, and the paper's gain over unadapted kNN, CIFAR-10 mean (its tables 1 and 4)
    "early_stopping": ("`Panda`, early stopping", "+3.7"),
    "ses": ("`PandaSes`, snapshots at these minibatches", "+3.4"),
    "ewc": ("`PandaEwc`, labelled Fisher file", "+3.7"),
    "ewc_sampled": ("`PandaEwc`, Fisher from the training images", ""),
    "l2_anchor": ("`PandaEwc`, `anchor: l2`", ""),
    "joint": ("`PandaJoint`", "+0.7"),
    "early_stopping_last_stage": ("`Panda`, last stage only", ""),
    "contrastive_1e-3": ("`Panda`, contrastive on L2", ""),
    "contrastive_root_1e-2": ("`Panda`, contrastive on root + L2, rate 0.01", ""),
    "contrastive_root_last_stage": ("`Panda`, contrastive on root + L2, last stage", ""),
    "outlier_exposure_fast": ("`PandaOe`, rate 0.01, clip 1, outliers from Tiny ImageNet", "+6.4"),
    "outlier_exposure_root": ("`PandaOe` on root + L2, rate 0.1, clip 1 (ended there)", ""),
    "outlier_exposure_as_they_are": ("`PandaOe`, outliers as they are", ""),
    "outlier_exposure_foreign": ("`PandaOe`, the same with outliers from Fashion-MNIST", ""),
}


def _means(table: pd.DataFrame, configuration: str, sets: Iterable[str] = SETS) -> str:
    """Cells of one configuration: mean AUROC on each set, and its spread over splits."""
    cells = []
    for set_name in sets:
        rows = table[(table["configuration"] == configuration) & (table["set"] == set_name)]
        by_seed = 100 * rows.groupby("seed")["auroc"].mean()
        spread = f" ± {by_seed.std():.2f}" if len(by_seed) > 1 else ""
        cells.append("-" if rows.empty else f"{by_seed.mean():.2f}{spread}")
    return " | ".join(cells)


def readouts(backbone: str = "tf_efficientnet_lite0") -> str:
    """Mean AUROC by readout and data set."""
    table = pd.read_csv(RESULTS / f"one_class_{backbone}.csv")
    lines = ["| readout and scorer | " + " | ".join(SETS.values()) + " |", "|---|" + "---|" * len(SETS)]
    lines += [f"| {text} | {_means(table, name)} |" for name, text in NAMES.items()]
    return "\n".join(lines)


def networks() -> str:
    """Mean AUROC of the packaged networks, and their speed over that of ResNet-18."""
    columns = [*SETS.values(), "CIFAR-10, 1 000 training images a class", "images a second"]
    report = json.loads((RESULTS / "speed_networks.json").read_text())
    speeds = {r["network"]: r["over_resnet18"] for r in report["networks"] if r["runtime"] == "openvino"}
    lines = ["| network | readout | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for name, text in NETWORKS.items():
        if not (target := RESULTS / f"one_class_{name}.csv").is_file():
            continue
        table, few = pd.read_csv(target), RESULTS / f"one_class_{name}_train1000.csv"
        for configuration, readout in READOUTS.items():
            fewer = _means(pd.read_csv(few), configuration, ["cifar10"]) if few.is_file() else "-"
            speed = f"{speeds[name.replace('_224', ' at 224')]:.1f} x ResNet-18"
            lines.append(f"| {text} | {readout} | {_means(table, configuration)} | {fewer} | {speed} |")
    return "\n".join(lines)


def reference(backbone: str = "tf_efficientnet_lite0") -> str:
    """CIFAR-10 means beside those of the independent reference."""
    table = pd.read_csv(RESULTS / f"one_class_{backbone}.csv")
    means = 100 * table[table["set"] == "cifar10"].groupby("configuration")["auroc"].mean()
    lines = ["| scorer | ours | reference | difference |", "|---|---|---|---|"]
    for name, expected in REFERENCE.items():
        lines.append(f"| {name} | {means[name]:.2f} | {expected:.2f} | {means[name] - expected:+.2f} |")
    return "\n".join(lines)


def classes(backbone: str = "tf_efficientnet_lite0") -> str:
    """CIFAR-10 by class: default and papers' readout, with the default's false alarms and misses."""
    table = pd.read_csv(RESULTS / f"one_class_{backbone}.csv")
    table = table[table["set"] == "cifar10"].set_index(["configuration", "class"])
    lines = ["| normal class | default | papers' readout | false alarms | misses |", "|---|---|---|---|---|"]
    for name in [*table.loc["default"].index, "mean"]:
        rows = [table.loc[configuration] for configuration in ("default", "knn2")]
        row, paper = (part.mean(numeric_only=True) if name == "mean" else part.loc[name] for part in rows)
        rates = f"{100 * row['false_alarm_rate']:.1f} % | {100 * row['miss_rate']:.1f} %"
        label = f"**{name}**" if name == "mean" else name
        lines.append(f"| {label} | {100 * row['auroc']:.2f} | {100 * paper['auroc']:.2f} | {rates} |")
    return "\n".join(lines)


def rates(backbone: str = "tf_efficientnet_lite0") -> str:
    """False alarms and misses at the default threshold, asked for 5 %."""
    table = pd.read_csv(RESULTS / f"one_class_{backbone}.csv")
    lines = ["| set | false alarms (asked: 5 %) | misses |", "|---|---|---|"]
    for set_name, text in SETS.items():
        rows = table[(table["configuration"] == "default") & (table["set"] == set_name)]
        alarms, misses = 100 * rows["false_alarm_rate"].mean(), 100 * rows["miss_rate"].mean()
        lines.append(f"| {text} | {alarms:.1f} % | {misses:.1f} % |")
    return "\n".join(lines)


def halves(backbone: str = "tf_efficientnet_lite0") -> str:
    """Means over CIFAR-10, Fashion-MNIST and WBC: even classes (by name) chose, odd classes confirm."""
    table = pd.read_csv(RESULTS / f"one_class_{backbone}.csv")
    table = table[table["set"] != "mvtec_screw_512"]  # one category has no halves
    half = table.groupby("set")["class"].transform(lambda names: names.map(sorted(names.unique()).index) % 2)
    means = 100 * table.groupby(["configuration", "set", half.rename("half")])["auroc"].mean()
    by_half = means.groupby(["configuration", "half"]).mean().unstack()
    lines = ["| readout and scorer | choosing half | confirming half |", "|---|---|---|"]
    best = by_half.loc[by_half.index.isin(list(NAMES))].sort_values(0, ascending=False)[:6]
    rows = [f"| {NAMES[name]} | {chose:.2f} | {confirms:.2f} |" for name, chose, confirms in best.itertuples()]
    return "\n".join([*lines, *rows])


def speed(backbones: tuple[str, ...] = ("tf_efficientnet_lite0", "resnet50")) -> str:
    """Whole runs over the bare loop."""
    lines = ["| network, images | runtime | train + test over the bare loop | AUROC | peak memory | start |"]
    lines += ["|---|---|---|---|---|---|"]
    for backbone in backbones:
        if not (target := RESULTS / f"speed_whole_{backbone}.json").is_file():
            continue
        runs = json.loads(target.read_text())["runs"]
        for name, run in sorted(runs.items(), key=lambda item: -item[1]["ratio_to_bare"]):
            random = "--weights random" in run["command"]
            auroc = "random weights" if random else f"{100 * run['auroc']:.2f}"
            cells = [f"{backbone}, {run['images']}", name, f"{run['ratio_to_bare']:.2f}", auroc, _memory(run)]
            lines.append(f"| {' | '.join(cells)} | {run['start_up_s']:.0f} s |")
    return "\n".join(lines)


def _memory(run: dict[str, float]) -> str:
    return f"{run['peak_mb'] / 1024:.1f} GiB"


def hosts() -> str:
    """DN2 beside models of anomalib."""
    report = json.loads((RESULTS / "speed_hosts.json").read_text())
    lines = ["| model | fit | test | whole over DN2 in eager PyTorch | peak memory |", "|---|---|---|---|---|"]
    for name, run in report["runs"].items():
        times = f"{run['fit_s']:.1f} s | {run['test_s']:.1f} s | {run['ratio_to_dn2_eager']:.2f}"
        lines.append(f"| {name} | {times} | {_memory(run)} |")
    return "\n".join(lines)


def training() -> str:
    """A minibatch of adaptation over one of a plain loop."""
    report = json.loads((RESULTS / "speed_training.json").read_text())
    lines = ["| network | plain loop | cached stem outputs, float32 | cached, `bf16-mixed` | times as fast |"]
    lines += ["|---|---|---|---|---|"]
    for name, run in report["networks"].items():
        times = [run[kind]["minibatch_s"] for kind in ("plain", "32-true", "bf16-mixed")]
        ratios = " and ".join(f"{times[0] / seconds:.1f}" for seconds in times[1:])
        lines.append(f"| {name} | {' | '.join(f'{seconds:.2f} s' for seconds in times)} | {ratios} |")
    return "\n".join(lines)


def variants() -> str:
    """What EWC and the snapshot ensemble add to early stopping."""
    report = json.loads((RESULTS / "speed_variants.json").read_text())
    lines = ["| model | a minibatch over one of `Panda` | after the last minibatch |", "|---|---|---|"]
    for name, run in report["variants"].items():
        lines.append(f"| {name} | {run['minibatch_over_panda']:.2f} | {run['after_cpu_s']:.1f} s |")
    return "\n".join(lines)


def search() -> str:
    """Exact search in growing banks."""
    report = json.loads((RESULTS / "speed_search.json").read_text())
    lines = ["| vectors in the bank | search of 32 images | share of search and extraction | bank |"]
    lines += ["|---|---|---|---|"]
    for row in report["banks"]:
        times = f"{row['search_ms']:.1f} ms | {100 * row['share']:.1f} %"
        lines.append(f"| {row['vectors']} | {times} | {row['bank_mb']:.0f} MiB |")
    return "\n".join(lines)


def imports() -> str:
    """Import times."""
    report = json.loads((RESULTS / "speed_imports.json").read_text())
    names = {
        "anomalib_s": "`import anomalib.models`",
        "with_ours_s": "the same after `import panda_anomalib`",
        "package_s": "`import panda_anomalib` alone",
        "version_s": "`panda-anomalib --version`",
    }
    lines = ["| a process that does | seconds |", "|---|---|"]
    return "\n".join([*lines, *(f"| {text} | {report[name]:.2f} |" for name, text in names.items())])


def adaptation() -> str:
    """AUROC before and after adaptation by class, variant and readout; paper's gain beside ours."""
    readouts = {"knn_none": "kNN, raw", "knn_l2": "kNN, L2", "knn_power_l2": "kNN, root + L2", "default": "default"}
    lines = [f"| class | variant | minibatches | {' | '.join(readouts.values())} | logit | paper's gain |"]
    lines += ["|---|---|---|" + "---|" * (len(readouts) + 2)]
    for target in sorted(RESULTS.glob("adaptation_cifar10_*.csv")):
        table = pd.read_csv(target)
        table = table[table["variant"].isin(list(ADAPTED))]
        if table.empty:  # the collapse on purpose, on fewer images
            continue
        start = table[table["minibatch"] == 0].groupby("readout")["auroc"].first()
        name = table["class"].iat[0]
        cells = " | ".join(f"{100 * start[readout]:.2f}" for readout in readouts)
        lines.append(f"| {name} | none: `Dn2` | 0 | {cells} | | |")
        for variant, (text, gain) in ADAPTED.items():
            rows = table[table["variant"] == ("early_stopping" if variant == "ses" else variant)]
            column = "ses_adapted" if variant == "ses" else "auroc"
            for minibatch, found in rows[rows["minibatch"] > 0].groupby("minibatch"):
                own = 100 * found.set_index("readout")[column]
                cells = " | ".join(f"{own[readout]:.2f}" for readout in readouts)
                logit = f"{own['logit']:.2f}" if "logit" in own.index else ""
                lines.append(f"| {name} | {text} | {minibatch} | {cells} | {logit} | {gain} |")
    return "\n".join(lines)


def stopping() -> str:
    """AUROC of the weights that ``stop: auto`` would keep of those measured, beside the first and the last."""
    lines = ["| set, class | variant | readout | unadapted | last | kept by `stop: auto` | best of all measured |"]
    lines += ["|---|---|---|---|---|---|---|"]
    kinds = ["auroc_shuffled", "auroc_pasted", "auroc_cropped"]
    for target in sorted(RESULTS.glob("adaptation_*.csv")):
        table = pd.read_csv(target)
        table["criterion"] = table[kinds].mean(axis=1, skipna=False)
        by_run = table.sort_values("minibatch", kind="stable").groupby(["class", "variant", "readout"], sort=False)
        for (name, variant, readout), rows in by_run:
            own = "logit" if "outlier" in variant else "default"
            if readout != own or variant not in ADAPTED or rows["criterion"].isna().any():
                continue
            kept = rows.loc[rows["criterion"].idxmax()]
            frozen = table[(table["minibatch"] == 0) & (table["readout"] == "default")]["auroc"].iat[0]
            values = [frozen, rows["auroc"].iat[-1], kept["auroc"], rows["auroc"].max()]
            cells = [f"{100 * value:.2f}" for value in values]
            cells[1] += f" ({rows['minibatch'].iat[-1]})"
            cells[2] += f" ({kept['minibatch']})"
            set_name = next(text for key, text in SETS.items() if target.stem.startswith(f"adaptation_{key}"))
            lines.append(f"| {set_name}, {name} | {ADAPTED[variant][0]} | {readout} | {' | '.join(cells)} |")
    return "\n".join(lines)


def false_alarms() -> str:
    """Mean realised rate over random splits, and its standard error."""
    table = pd.read_csv(RESULTS / "false_alarms.csv")
    rates = sorted(table["rate"].unique())
    lines = ["| set, class | scorer | " + " | ".join(f"asked: {100 * rate:g} %" for rate in rates) + " |"]
    lines += ["|---|---|" + "---|" * len(rates)]
    for (set_name, class_name, scorer), rows in table.groupby(["set", "class", "scorer"], sort=False):
        by_rate = 100 * rows.groupby("rate")["realised"].agg(["mean", "sem"])
        cells = [f"{row['mean']:.2f} ± {row['sem']:.2f} %" for _, row in by_rate.iterrows()]
        lines.append(f"| {SETS[set_name]}, {class_name} | {scorer} | {' | '.join(cells)} |")
    return "\n".join(lines)


SIDE_BY_SIDE = {
    "dn2": "**`Dn2`**, default",
    "dn2_paper": "`Dn2`, papers' readout",
    "panda": "`Panda`, `stop: auto`, 60 minibatches",
    "dn2_random": "`Dn2`, random weights",
    "padim": "Padim",
    "patchcore": "Patchcore, coreset of 1 %",
    "dfm": "Dfm",
    "dfkde": "Dfkde",
    "fre": "Fre, 20 passes",
    "stfpm": "Stfpm, 20 passes",
}


def side_by_side() -> str:
    """Ours beside anomalib's models: AUROC on the demo images and the MVTec category, and costs on the latter."""
    tables = [pd.read_csv(path) for path in sorted(RESULTS.glob("side_by_side_*.csv"))]
    table = pd.concat(tables).set_index("model")
    demo, screw = (table[table["set"] == name] for name in ("demo", "mvtec"))
    lines = ["| model | demo | MVTec screw | fit | test | memory | checkpoint |", "|---|---|---|---|---|---|---|"]
    for name, text in SIDE_BY_SIDE.items():
        if name not in table.index:
            continue
        aurocs = [100 * rows.loc[[name], "auroc"].mean() if name in rows.index else None for rows in (demo, screw)]
        cells = ["-" if auroc is None else f"{auroc:.1f}" for auroc in aurocs]
        if name in screw.index:
            row = screw.loc[[name]].mean(numeric_only=True)
            cells += [f"{row['fit_seconds']:.0f} s", f"{row['test_seconds']:.0f} s"]
            cells += [f"{row['memory_mib'] / 1024:.1f} GiB", f"{row['checkpoint_mib']:.0f} MiB"]
        else:
            cells += ["-"] * 4
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _study(study: str, x: str, columns: Iterable[float], rename: dict[str, str]) -> str:
    """Mean AUROC over classes and seeds of one of the frozen studies, with the standard deviation over seeds."""
    table = pd.read_csv(RESULTS / f"frozen_{study}_cifar10_tf_efficientnet_lite0.csv")
    header = " | ".join(f"{column:g}" for column in columns)
    lines = [f"| | {header} |", "|---|" + "---|" * len(header.split("|"))]
    for method, text in rename.items():
        cells = []
        for column in columns:
            by_seed = 100 * table[(table["method"] == method) & (table[x] == column)].groupby("seed")["auroc"].mean()
            cells.append(f"{by_seed.mean():.1f}" + (f" ± {by_seed.std():.1f}" if len(by_seed) > 1 else ""))
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sets() -> str:
    """Sets of images by their size."""
    names = ["concatenated", "max-pooled", "mean-pooled"]
    rename = {f"{kind}, {name}": f"{name}, {kind} embeddings" for kind in ("papers'", "root + L2") for name in names}
    return _study("sets", "size", range(2, 11, 2), rename)


def groups() -> str:
    """Sets of one class against sets of all."""
    return _study("groups", "size", [10, 20, 30, 50], {"papers', trace": "papers'", "root + L2, trace": "root + L2"})


TABLES = {
    "readouts": readouts,
    "reference": reference,
    "classes": classes,
    "rates": rates,
    "halves": halves,
    "networks": networks,
    "false_alarms": false_alarms,
    "adaptation": adaptation,
    "stopping": stopping,
    "speed": speed,
    "hosts": hosts,
    "training": training,
    "variants": variants,
    "search": search,
    "imports": imports,
    "side_by_side": side_by_side,
    "sets": sets,
    "groups": groups,
}


def filled(text: str) -> str:
    """Text with every marked table made anew.

    Raises:
        KeyError: If a marker names no table.
    """
    pattern = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
