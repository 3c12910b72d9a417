r"""Speed and memory, as ratios within one run on one machine.

    python benchmarks/speed.py whole --root datasets/cifar10 --normal_class horse --runtimes channels_last openvino
    python benchmarks/speed.py whole --root datasets/cifar10 --normal_class horse --backbone resnet50 \
        --weights random --train_images 1000 --test_images 2000
    python benchmarks/speed.py hosts --root datasets/mvtec_screw_512 --normal_class good
    python benchmarks/speed.py training --root datasets/cifar10 --normal_class horse
    python benchmarks/speed.py variants --root datasets/cifar10 --normal_class horse
    python benchmarks/speed.py pictures --root datasets/mvtec_screw_512 --normal_class good
    python benchmarks/speed.py search
    python benchmarks/speed.py networks
    python benchmarks/speed.py imports

``whole``: train and test of DN2 without pictures, each runtime in a process of its own, over a bare loop that decodes
the images and runs timm's network in eager float32 NCHW. The bare loop has a constant cost an image, so it is timed on
``--bare_images`` of them and scaled; it runs anew in every call, and a call adds its runtimes to the results. Process
start (imports) is reported apart. ``cpu_s`` is processor time, which tells a busy machine. ``hosts``: DN2 beside
anomalib's Dfkde and Patchcore on one backbone with random weights. ``training``: a minibatch of ``Panda`` from cached
stem outputs over one of a plain loop (decode and resize in every pass by two workers, whole network forward, eager
float32 NCHW), for three networks with random weights, in float32 and in ``bf16-mixed``; the pass that fills the cache
is reported apart. ``variants``: processor time of a minibatch, and of what comes after the last one (memory bank,
threshold, of every snapshot), of ``PandaEwc`` (with F = 1, the same arithmetic) and ``PandaSes`` over those of
``Panda``, in turns in one process. ``pictures``: what the pictures add to a test. ``search``: exact search of one batch
over extraction of that batch. ``networks``: embeddings a second of the packaged networks (random weights) over those
of ResNet-18, decoded images, two runtimes in turns. Results go to ``results/speed_<part>.json``, with versions and
commit; memory is that of the main process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provenance import provenance

RESULTS = Path(__file__).parent / "results"

_DATA = """
import json, resource, sys, time, warnings
begun = time.perf_counter()
warnings.filterwarnings("ignore")
options = json.loads(sys.argv[1])
import torch
from anomalib.engine import Engine
import anomalib.models
from panda_anomalib import Dn2, OneClassFolder
started, cpu_before = time.perf_counter(), time.process_time()
data = OneClassFolder(root=options["root"], normal_class=options["normal_class"])
"""
_REPORT = """
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
times = {"start_up_s": started - begun, "seconds": done - started, "cpu_before_s": cpu_before}
print("RESULT", json.dumps({**times, "peak_mb": peak, **extra}))
"""
WHOLE = (
    _DATA
    + """
model = Dn2(backbone=options["backbone"], weights=options["weights"], runtime=options["runtime"], visualizer=False)
engine = Engine(default_root_dir=options["out"], logger=False, enable_progress_bar=False, enable_model_summary=False,
                accelerator="cpu")
results = engine.train(model, datamodule=data)
extra = {"auroc": results[0]["image_AUROC"], "images": len(data.train_data) + len(data.test_data)}
"""
    + _REPORT
)
BARE = (
    _DATA
    + """
import timm
from anomalib.data.utils import read_image
data.setup()
paths = [*data.train_data.samples.image_path, *data.test_data.samples.image_path]
network = timm.create_model(options["backbone"], num_classes=0).eval()
transform = Dn2(backbone=options["backbone"], weights="random").pre_processor.transform
chosen = paths[:: max(1, len(paths) // options["bare_images"])]
started, cpu_before = time.perf_counter(), time.process_time()
with torch.no_grad():
    for start in range(0, len(chosen), 32):
        images = [transform(read_image(path, as_tensor=True)) for path in chosen[start : start + 32]]
        network(torch.stack(images).as_subclass(torch.Tensor))
extra = {"images": len(chosen), "all_images": len(paths)}
"""
    + _REPORT
)
HOST = (
    _DATA
    + """
from anomalib.models import Dfkde, Patchcore
torch.manual_seed(0)
none = {"visualizer": False}
model = {
    "Dn2": lambda: Dn2(backbone="resnet18", weights="random", runtime=options["runtime"], **none),
    "Dn2 with pictures": lambda: Dn2(backbone="resnet18", weights="random", runtime=options["runtime"]),
    "Dfkde": lambda: Dfkde(backbone="resnet18", pre_trained=False, **none),
    "Patchcore, 1 % coreset": lambda: Patchcore(backbone="resnet18", pre_trained=False, coreset_sampling_ratio=0.01,
                                                **none),
}[options["model"]]()
data = OneClassFolder(root=options["root"], normal_class=options["normal_class"], val_split_mode="same_as_test")
engine = Engine(default_root_dir=options["out"], logger=False, enable_progress_bar=False, enable_model_summary=False,
                accelerator="cpu")
engine.fit(model, datamodule=data)
fitted = time.perf_counter()
engine.test(model, datamodule=data)
extra = {"fit_s": fitted - started, "test_s": time.perf_counter() - fitted, "test_images": len(data.test_data)}
"""
    + _REPORT
)
PLAIN_TRAINING = (
    _DATA
    + """
from torch.utils.data import DataLoader
from panda_anomalib.backbones import Backbone
data.setup()
model = Dn2(backbone=options["backbone"], weights="random")
model.pre_processor.install(data.train_data)
normalize = model.pre_processor.transform.transforms[-1]
backbone = Backbone(options["backbone"], weights="random")
network, trained = backbone.network.eval(), list(backbone.trunk_parameters().values())
for parameter in trained:
    parameter.requires_grad_()
optimizer = torch.optim.SGD(trained, lr=1e-2, momentum=0.9, weight_decay=5e-5)
loader = DataLoader(data.train_data, batch_size=32, shuffle=True, num_workers=2, collate_fn=data.train_data.collate_fn)
center, times = torch.zeros(backbone.embedding_size), []
for number, batch in enumerate(loader):
    loss = (network(normalize(batch.image)) - center).square().mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1e-3)
    optimizer.step()
    times.append(time.perf_counter())
    if number == options["minibatches"]:
        break
extra = {"minibatch_s": (times[-1] - times[2]) / (len(times) - 3)}
"""
    + _REPORT
)
CACHED_TRAINING = (
    _DATA
    + """
from lightning.pytorch import Callback
from panda_anomalib import Panda
data.num_workers = 2
data.setup()
data.setup = lambda stage=None: None
data.train_data.samples = data.train_data.samples[: options["images"]]
class Times(Callback):
    at = []
    def on_train_start(self, *_):
        self.begun = time.perf_counter()
    def on_train_batch_end(self, *_):
        self.at.append(time.perf_counter())
watch = Times()
engine = Engine(default_root_dir=options["out"], logger=False, enable_progress_bar=False, enable_model_summary=False,
                accelerator="cpu", callbacks=[watch], precision=options["precision"])
model = Panda(backbone=options["backbone"], weights="random", minibatches=options["minibatches"], visualizer=False)
engine.fit(model, datamodule=data)
extra = {"minibatch_s": (watch.at[-1] - watch.at[2]) / (len(watch.at) - 3),
         "cache_s_an_image": (watch.begun - started) / options["images"]}
"""
    + _REPORT
)
VARIANTS = (
    _DATA
    + """
from lightning.pytorch import Callback
from panda_anomalib import Panda, PandaEwc, PandaSes
torch.set_num_threads(1)
data.setup()
data.setup = lambda stage=None: None
data.train_data.samples = data.train_data.samples[: options["images"]]
class Times(Callback):
    def on_train_start(self, *_):
        self.at = []
    def on_train_batch_end(self, *_):
        self.at.append(time.process_time())
variants = {
    "Panda": lambda **same: Panda(**same),
    "PandaEwc": lambda **same: PandaEwc(anchor="l2", **same),
    "PandaSes, 3 snapshots": lambda **same: PandaSes(every_n_minibatches=options["minibatches"] // 3, **same),
}
steps, ends = {name: [] for name in variants}, {name: [] for name in variants}
for _ in range(options["turns"]):
    for name, make in variants.items():
        watch = Times()
        engine = Engine(default_root_dir=options["out"], logger=False, enable_progress_bar=False,
                        enable_model_summary=False, accelerator="cpu", callbacks=[watch])
        model = make(backbone=options["backbone"], weights="random", minibatches=options["minibatches"], cache="memory",
                     visualizer=False)
        engine.fit(model, datamodule=data)
        ends[name].append(time.process_time() - watch.at[-1])
        steps[name] += [later - earlier for earlier, later in zip(watch.at[2:], watch.at[3:])]
median = lambda values: sorted(values)[len(values) // 2]
extra = {"variants": {name: {"minibatch_cpu_s": median(steps[name]), "after_cpu_s": median(ends[name])}
                      for name in variants}}
"""
    + _REPORT
)


def child(script: str, **options: Any) -> dict[str, Any]:
    """Run a script in a process of its own and return what it reports."""
    command = [sys.executable, "-c", script, json.dumps(options, default=str)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # with its data loading processes
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        raise RuntimeError(result.stderr[-3000:])
    report: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report["cpu_s"] = spent - report.pop("cpu_before_s")
    print(options.get("runtime") or options.get("model") or "bare", report, flush=True)
    return report


def whole(arguments: argparse.Namespace) -> dict[str, Any]:
    """Whole runs over the bare loop of the same call, beside the runs that are in the results already."""
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root
        if arguments.train_images or arguments.test_images:
            root = subset(arguments, Path(folder) / root.name)
        common = {"root": root, "normal_class": arguments.normal_class, "backbone": arguments.backbone}
        bare = child(BARE, **common, bare_images=arguments.bare_images)
        bare["scaled_s"] = bare["seconds"] * bare["all_images"] / bare["images"]
        target = RESULTS / f"speed_whole_{arguments.backbone}.json"
        runs = json.loads(target.read_text())["runs"] if target.is_file() else {}
        for runtime in arguments.runtimes:
            run = child(WHOLE, **common, runtime=runtime, weights=arguments.weights, out=Path(folder) / "results")
            ratio = run["seconds"] / bare["scaled_s"]
            runs[runtime] = {**run, "ratio_to_bare": ratio, "bare": bare, **provenance()}
            save(f"whole_{arguments.backbone}", {"runs": runs})
    return {"runs": runs}


def subset(arguments: argparse.Namespace, root: Path) -> Path:
    """Tree of links to the first training images of the normal class, and to as many test images of each class."""
    classes = sorted(path.name for path in (arguments.root / "test").iterdir())
    counts = {f"test/{name}": arguments.test_images and arguments.test_images // len(classes) for name in classes}
    for folder, count in {f"train/{arguments.normal_class}": arguments.train_images, **counts}.items():
        (root / folder).mkdir(parents=True)
        for path in sorted((arguments.root / folder).iterdir())[:count]:
            (root / folder / path.name).symlink_to(path.resolve())
    return root


def hosts(arguments: argparse.Namespace) -> dict[str, Any]:
    """DN2 beside models of anomalib."""
    with tempfile.TemporaryDirectory() as out:
        common = {"root": arguments.root, "normal_class": arguments.normal_class, "out": out}
        runs = {f"Dn2 ({name})": child(HOST, **common, model="Dn2", runtime=name) for name in ("eager", "auto")}
        for model in ("Dfkde", "Patchcore, 1 % coreset"):  # its default of 10 % takes ten times as many passes
            runs[model] = child(HOST, **common, model=model, runtime=None)
    for run in runs.values():
        run["ratio_to_dn2_eager"] = run["seconds"] / runs["Dn2 (eager)"]["seconds"]
    return {"runs": runs}


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    """A minibatch of adaptation over one of a plain loop, by network."""
    networks = {}
    with tempfile.TemporaryDirectory() as out:
        common = {"root": arguments.root, "normal_class": arguments.normal_class, "minibatches": 15, "images": 320}
        for backbone in ("resnet18", "resnet50", "tf_efficientnet_lite0"):
            networks[backbone] = {"plain": child(PLAIN_TRAINING, **common, backbone=backbone)}
            for precision in ("32-true", "bf16-mixed"):
                run = child(CACHED_TRAINING, **common, backbone=backbone, precision=precision, out=out)
                run["times_as_fast"] = networks[backbone]["plain"]["minibatch_s"] / run["minibatch_s"]
                networks[backbone][precision] = run
    return {"networks": networks}


def variants(arguments: argparse.Namespace) -> dict[str, Any]:
    """What EWC and the snapshot ensemble add to early stopping."""
    with tempfile.TemporaryDirectory() as out:
        common = {"root": arguments.root, "normal_class": arguments.normal_class, "backbone": arguments.backbone}
        runs = child(VARIANTS, **common, out=out, images=320, minibatches=12, turns=3)["variants"]
    for run in runs.values():
        run["minibatch_over_panda"] = run["minibatch_cpu_s"] / runs["Panda"]["minibatch_cpu_s"]
    return {"backbone": arguments.backbone, "images": 320, "minibatches": 12, "variants": runs}


def pictures(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the picture of every test image and the overview add to a test."""
    with tempfile.TemporaryDirectory() as out:
        common = {"root": arguments.root, "normal_class": arguments.normal_class, "out": out, "runtime": "auto"}
        runs = {model: child(HOST, **common, model=model) for model in ("Dn2", "Dn2 with pictures")}
    plain, shown = runs.values()
    return {"runs": runs, "ms_a_picture": 1000 * (shown["test_s"] - plain["test_s"]) / plain["test_images"]}


def search(arguments: argparse.Namespace) -> dict[str, Any]:
    """Exact search of one batch of 32 in banks of growing size, over its extraction."""
    import torch

    from panda_anomalib.backbones import Backbone, make_runtime
    from panda_anomalib.backbones.runtimes import choose_runtime
    from panda_anomalib.scorers.search import mean_and_norms, nearest

    def seconds(call: Any, repeats: int = 5) -> float:
        call()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return sorted(times)[repeats // 2]

    runtime = choose_runtime("auto", torch.device("cpu"), 10**6)
    backbone = Backbone(arguments.backbone, weights=arguments.weights)
    backbone.load_weights()  # now: a runtime that traces the network must not trace the reading of its weights
    extract = make_runtime(runtime, backbone)
    images = torch.rand(32, 3, 224, 224)
    extraction = seconds(lambda: extract(images))
    rows = []
    for count in (5_000, 50_000, 500_000):
        bank = torch.nn.functional.normalize(torch.rand(count, 1280), dim=1)
        mean, norms = mean_and_norms(bank)
        time_taken = seconds(lambda bank=bank, mean=mean, norms=norms: nearest(bank[:32] + 0.01, bank, mean, norms, 2))
        rows.append(
            {
                "vectors": count,
                "search_ms": 1000 * time_taken,
                "share": time_taken / (time_taken + extraction),
                "bank_mb": bank.numel() * 4 / 2**20,
            }
        )
        print(rows[-1], flush=True)
    return {"runtime": runtime, "extraction_ms": 1000 * extraction, "banks": rows}


NETWORKS = {  # with the image size of the weights, and one that is smaller than that
    "resnet18": 224,
    "tf_efficientnet_lite0": 224,
    "tf_efficientnet_lite1": 240,
    "tf_efficientnet_lite2": 260,
    "tf_efficientnet_lite2 at 224": 224,
}


def networks(_: argparse.Namespace) -> dict[str, Any]:
    """Images per second of the packaged networks beside ResNet-18, batches of 32 in turns; medians of seven."""
    import torch

    from panda_anomalib.backbones import Backbone, make_runtime

    def prepared(text: str, size: int, runtime: str) -> tuple[Any, Any]:
        backbone = Backbone(text.partition(" ")[0], weights="random")
        backbone.load_weights()
        run, images = make_runtime(runtime, backbone), torch.rand(32, 3, size, size)
        run(images)
        return run, images

    runtimes = ("openvino", "channels_last")
    runs = {(text, name): prepared(text, size, name) for text, size in NETWORKS.items() for name in runtimes}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    with torch.no_grad():
        for _turn in range(7):
            for key, (run, images) in runs.items():
                start = time.perf_counter()
                run(images)
                seconds[key].append(time.perf_counter() - start)
    rates = {key: 32 / sorted(times)[3] for key, times in seconds.items()}
    rows = [{"network": text, "runtime": runtime, "images_a_second": rate} for (text, runtime), rate in rates.items()]
    for row in rows:
        row["over_resnet18"] = row["images_a_second"] / rates["resnet18", row["runtime"]]
    return {"threads": torch.get_num_threads(), "networks": rows}


def imports(_: argparse.Namespace) -> dict[str, Any]:
    """Import time of the package over anomalib.models alone, and of ``--version``; medians of five."""

    def median(code: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        return sorted(times)[2]

    host = median("import anomalib.models")
    ours = median("import panda_anomalib, anomalib.models")
    version_time = median("from panda_anomalib.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass")
    light = median("import panda_anomalib")
    more = {"with_ours_s": ours, "more_s": ours - host, "package_s": light, "version_s": version_time}
    return {"anomalib_s": host, **more}


def save(name: str, report: dict[str, Any]) -> None:
    """Write a report."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"speed_{name}.json").write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {
        "whole": whole,
        "hosts": hosts,
        "training": training,
        "variants": variants,
        "pictures": pictures,
        "search": search,
        "networks": networks,
        "imports": imports,
    }
    parser.add_argument("part", choices=parts)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--normal_class")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="default", help="'random' where only speed matters")
    runtimes = ["eager", "channels_last", "compile", "openvino", "openvino_bf16"]
    parser.add_argument("--runtimes", nargs="+", default=runtimes)
    parser.add_argument("--bare_images", type=int, default=1000)
    parser.add_argument("--train_images", type=int, help="only so many of root/train/<normal class>")
    parser.add_argument("--test_images", type=int, help="only so many of root/test, equally of each class")
    arguments = parser.parse_args()
    report = parts[arguments.part](arguments)
    if arguments.part != "whole":
        save(arguments.part, {**provenance(), **report})
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
