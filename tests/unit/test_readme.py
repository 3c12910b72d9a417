"""What README and docs say is what the results and the scripts say."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml
from documents import PAGES, ROOT

import panda_anomalib  # noqa: F401 - registers the models

README = (ROOT / "README.md").read_text()


def test_tables_are_those_of_the_results() -> None:
    """``python benchmarks/tables.py`` changes nothing."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    texts = {page: page.read_text() for page in PAGES}
    assert any("<!-- table:readouts -->" in text for text in texts.values())
    assert not [page for page, text in texts.items() if tables.filled(text) != text]


def test_ci_runs_the_readmes_commands() -> None:
    """A newcomer and CI do the same."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    script = (ROOT / ".ci/run").read_text()
    install = next(block for block in blocks if ".[dev]" in block)
    for line in install.strip().splitlines():
        assert line in script, line


def test_named_files_exist() -> None:
    """Configurations, pictures and scripts that a page names."""
    pattern = r"(?:configs|docs|benchmarks)/[\w./-]+\.(?:yaml|png|py|csv|json)"
    named = {name for page in PAGES for name in re.findall(pattern, page.read_text())}
    assert "configs/benchmark/quick.yaml" in named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_quoted_messages_are_those_of_the_code() -> None:
    """In bold code on the page of troubles, ``...`` for what differs from case to case."""
    sources = [ast.parse(path.read_text()) for path in (ROOT / "src").rglob("*.py")]
    messages = [_message(node) for source in sources for node in ast.walk(source)]
    quoted = re.findall(r"\*\*`([^`]+)`", (ROOT / "docs/trouble.md").read_text())
    assert len(quoted) > 20
    for quote in quoted:
        parts = [part.strip() for part in quote.split("...")]
        assert any(all(part in message for part in parts) for message in messages), quote


def _message(node: ast.AST) -> str:
    """Text of a string or format string, else nothing."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_message(part) or "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize("path", sorted((ROOT / "configs/model").glob("*.yaml")), ids=lambda path: path.stem)
def test_model_configuration_builds(path: Path) -> None:
    """Through anomalib's own loader; its header's command names the file itself."""
    from anomalib.models import get_model

    configuration = yaml.safe_load(path.read_text())
    assert f"panda_anomalib.{type(get_model(configuration)).__name__}" == configuration["class_path"]
    command = next(line for line in path.read_text().splitlines() if "panda-anomalib train" in line)
    assert str(path.relative_to(ROOT)) in shlex.split(command.lstrip("# "))
