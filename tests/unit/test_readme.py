"""What the README says is what the results and the scripts say."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

import panda_anomalib  # noqa: F401 - registers the models

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_tables_are_those_of_the_results() -> None:
    """``python benchmarks/tables.py`` changes nothing."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert "<!-- table:readouts -->" in README
    assert tables.filled(README) == README


def test_ci_runs_the_readmes_commands() -> None:
    """A newcomer and CI do the same."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    script = (ROOT / ".ci/run").read_text()
    install = next(block for block in blocks if ".[dev]" in block)
    for line in install.strip().splitlines():
        assert line in script, line


def test_named_files_exist() -> None:
    """Configurations, pictures and scripts that the README names."""
    named = set(re.findall(r"(?:configs|docs|benchmarks)/[\w./-]+\.(?:yaml|png|py|csv|json)", README))
    assert named, "the README names no file"
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/model").glob("*.yaml")), ids=lambda path: path.stem)
def test_model_configuration_builds(path: Path) -> None:
    """Through anomalib's own loader; its header's command names the file itself."""
    from anomalib.models import get_model

    configuration = yaml.safe_load(path.read_text())
    assert f"panda_anomalib.{type(get_model(configuration)).__name__}" == configuration["class_path"]
    command = next(line for line in path.read_text().splitlines() if "panda-anomalib train" in line)
    assert str(path.relative_to(ROOT)) in shlex.split(command.lstrip("# "))
