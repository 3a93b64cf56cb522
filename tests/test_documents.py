"""What the documents say can be done: every command line in them parses, every link and file in them is there."""

import re
import shlex
from pathlib import Path

import pytest

from tests.command_lines import parsed

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shell_lines(document: Path) -> list[str]:
    """The lines of a document's shell blocks, with continued lines joined and comments cut off."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].split(" #")[0].strip() for line in lines if line.strip()]


def command_lines() -> list[str]:
    return sorted({line for document in DOCUMENTS for line in shell_lines(document) if line.startswith("driftwheel ")})


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_parses(line: str) -> None:
    parsed(shlex.split(line)[1:])


def test_a_line_with_a_flag_that_is_not_there_does_not_parse() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["drift", "run", "mf", "--no-such-flag"])


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m for document in DOCUMENTS for line in shell_lines(document) for m in re.findall(r"^make ([a-z]+)", line)}
    assert named
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target
