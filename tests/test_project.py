"""The project's own rules, run with the tests: linter, formatter, types, layers, documentation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(p.parent.name for p in (ROOT / "src" / "kubarium").glob("*/__init__.py"))


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    run("ruff", "check", ".")


def test_the_code_is_formatted():
    run("ruff", "format", "--check", ".")


@pytest.mark.timeout(400)
def test_mypy_strict_finds_nothing():
    run("mypy")


def test_layers_are_kept():
    command = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_in_the_architecture(package):
    assert f"`{package}`" in (ROOT / "docs" / "architecture.md").read_text()


def test_links_between_documents_lead_somewhere():
    documents = [ROOT / "README.md", ROOT / "AGENTS.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_agents_page_stays_short():
    assert len((ROOT / "AGENTS.md").read_text().splitlines()) <= 60


def test_the_package_imports_quickly_by_importing_little():
    """Work, not seconds: a plain import must not drag the machinery in."""
    code = "import sys, kubarium; print(sum(m.startswith('kubarium') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1


def test_a_node_agent_starts_without_what_kubeconfigs_need():
    code = (
        "import sys, kubarium.cluster.agent_process; "
        "print([m for m in ('lightkube', 'msgspec', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_process_that_forks_containers_imports_little():
    """Each node agent has one beside it, idle as a rule."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); "
        "import kubarium.node.runtimes.process.zygote; "
        "print([m for m in ('asyncio', 'hashlib', 'pathlib', 'random') if m in sys.modules])"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_server_starts_without_what_only_some_commands_need():
    code = (
        "import sys, kubarium.cli.main, kubarium.cli.lifecycle; "
        "print([m for m in ('mcp', 'httpx2', 'torch', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
