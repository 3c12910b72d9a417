"""Every study of the papers and every comparison: jobs that the benchmark accepts, and a head that says what is there.

Data sets and the papers' weights are not at hand: classes are those that are published, and the networks are replaced
by a small one of the same family, whose stages have the same names.
"""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from panda_anomalib.benchmark import configuration, read_configuration
from panda_anomalib.benchmark.configuration import Configuration
from panda_anomalib.benchmark.sections import build_data, check_data, check_model
from panda_anomalib.cli import main
from panda_anomalib.commands import TOOLS
from panda_anomalib.host_cli import PandaCLI

CONFIGS = Path(__file__).parents[2] / "configs"
STUDIES = sorted((CONFIGS / "paper").glob("*.yaml"))
COMPARISONS = sorted((CONFIGS / "benchmark").glob("*.yaml"))
FILES = {path.stem: path for path in (*STUDIES, *COMPARISONS)}
BENCHMARKS = {name: path for name, path in FILES.items() if "benchmark" in yaml.safe_load(path.read_text())}
RUNS = {name: path for name, path in FILES.items() if name not in BENCHMARKS}
PAPERS_NETWORK = re.compile(r"resnet(?:50|101|152)\.tv_in1k")


def _classes(section: dict[str, Any]) -> list[str]:
    """Of the published data, of which the papers take 20 at most, without a file of it."""
    known = getattr(importlib.import_module("panda_anomalib.data"), section["class_path"]).known
    return list(known[:20]) or [f"class {number}" for number in range(20)]


def _read(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *replaced: tuple[str, str]) -> Configuration:
    text = PAPERS_NETWORK.sub("test_resnet", path.read_text())
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    monkeypatch.setattr(configuration, "check_data", build_data)
    monkeypatch.setattr(configuration, "class_names", _classes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (copy := folder / path.name).write_text(text)
    return read_configuration(copy)


def _head(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


def _commands(path: Path) -> list[list[str]]:
    text = "\n".join(_head(path)).replace("\\\n#", "")
    return [shlex.split(line) for line in re.findall(r"^#   (panda-anomalib .*)$", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_jobs_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the head says; no two of them are the same."""
    jobs = _read(BENCHMARKS[name], tmp_path, monkeypatch).jobs
    assert len({job.job_id for job in jobs}) == len(jobs)
    said = re.search(r"(\d+) jobs", "\n".join(_head(BENCHMARKS[name])))
    if BENCHMARKS[name].parent.name == "paper" and said is not None:
        assert len(jobs) == int(said[1])


@pytest.mark.parametrize("name", RUNS)
def test_sections_are_accepted(name: str) -> None:
    """Those of a training, or of a picture of embeddings."""
    content = yaml.safe_load(PAPERS_NETWORK.sub("test_resnet", RUNS[name].read_text()))
    check_model(content["model"])
    build_data(content["data"])
    for callback in content.get("trainer", {}).get("callbacks", []):
        module, _, kind = callback["class_path"].rpartition(".")
        getattr(importlib.import_module(module), kind)(**callback["init_args"])


def test_a_misspelt_argument_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a model, nor of data, nor of a scorer."""
    path = FILES["dn2_tab6_kmeans"]
    for old, new in (("normalization:", "normalisation:"), ("normal_class:", "normal_clas:"), ("num_means:", "means:")):
        with pytest.raises(ValueError, match=new[:-1]):
            _read(path, tmp_path, monkeypatch, (old, new))


@pytest.mark.parametrize("name", FILES)
def test_head_has_commands_that_work(name: str) -> None:
    """They name the file itself, and their words are accepted."""
    commands = _commands(FILES[name])
    own = FILES[name].relative_to(CONFIGS.parent).as_posix()
    assert any(own in command for command in commands)
    for _, tool, *words in commands:
        configs = [word for word in words if word.startswith("configs/")]
        assert set(configs) <= {own}
        if tool in TOOLS:
            importlib.import_module(f"panda_anomalib.tools.{tool}").make_parser().parse_args(words)
        for word in words:
            if word.startswith("runs/benchmark/"):
                assert word == f"runs/benchmark/{name}"
    if FILES[name].parent.name == "paper":
        assert {command[1] for command in commands} & {"figure", "tsne"}, "no command that draws it"


@pytest.mark.parametrize(("name", "minibatches"), [("panda_fig1_collapse", 7850), ("panda_fig1_collapse_small", 120)])
def test_trainings_of_a_head_are_built(name: str, minibatches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another model in the place of the file's, the file's arguments stay."""
    monkeypatch.chdir(CONFIGS.parent)
    built: list[PandaCLI] = []
    monkeypatch.setattr(PandaCLI, "_run_subcommand", lambda cli: built.append(cli))  # noqa: PLW0108 - a method must be a function
    for _, tool, *words in _commands(FILES[name]):
        if tool == "train":
            main([tool, *words])
    assert [type(cli.model).__name__ for cli in built] == ["Panda", "PandaEwc"]
    for cli in built:
        assert cli.model.hparams["minibatches"] == minibatches
        assert (cli.model.hparams["scorer"], cli.model.hparams["normalization"]) == ("knn", "none")


def test_each_study_has_the_published_set_up_and_a_small_one() -> None:
    """The one on the paper's network, the other on the packaged one."""
    names = {path.stem for path in STUDIES}
    published = {name for name in names if not name.endswith("_small")}
    assert names == published | {f"{name}_small" for name in published}
    for path in STUDIES:
        networks = set(re.findall(r"backbone: (\S+?)[,}\n]", path.read_text()))
        if path.stem.endswith("_small"):
            assert networks == {"tf_efficientnet_lite0"}, path
        else:
            assert all(PAPERS_NETWORK.fullmatch(network) for network in networks), path
        assert networks
        assert all(timm.get_pretrained_cfg(network) for network in networks)


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["dn2_tab6_kmeans_small", "panda_tab2_few_images_small", "panda_tab4_adaptation_small"]
)
def test_real_data_are_found(name: str, data_root: Path) -> None:
    """A small study names classes that are there, and does not ask for more images than there are."""
    data = yaml.safe_load(BENCHMARKS[name].read_text())["benchmark"]["data"]
    root = data_root / Path(data["init_args"]["root"]).name
    wanted = data["init_args"]["normal_class"]["grid"]
    for normal_class in _classes(data) if wanted == "all" else wanted:
        check_data({**data, "init_args": {**data["init_args"], "root": str(root), "normal_class": normal_class}})
