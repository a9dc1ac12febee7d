"""What comments cite is in the repository."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("openba_jax", "tasks", "gin", "scripts", "tests", "examples")
SUFFIXES = (".py", ".gin", ".sh")
CITATION = re.compile(r"(?<!master/)docs/(\w+)\.md((?:#[\w-]+)?(?:,\s(?:#\s)?#[\w-]+)*)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sources() -> list[Path]:
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*")]
    return [path for path in files if path.suffix in SUFFIXES and path != Path(__file__)]


def test_every_cited_heading_exists() -> None:
    seen = 0
    for path in sources():
        for page, places in CITATION.findall(path.read_text(encoding="utf-8")):
            file = REPOSITORY / "docs" / f"{page}.md"
            assert file.is_file(), f"{path} cites {file}"
            missing = set(re.findall(r"#([\w-]+)", places)) - anchors(file)
            assert not missing, f"{path} cites {missing} of {file}"
            seen += 1
    assert seen > 30


def test_nothing_cites_what_is_not_published() -> None:
    for path in sources():
        assert "§" not in path.read_text(encoding="utf-8"), path
