"""README in two languages, and the pages that mkdocs builds."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openba_jax.language import chinese

REPOSITORY = Path(__file__).resolve().parents[2]
README, CHINESE = (
    (REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")
)


def _blocks(text: str) -> list[str]:
    return re.findall(r"```(?:bash|json)\n(.*?)```", text, re.DOTALL)


def test_the_chinese_readme_has_every_example_and_every_result() -> None:
    assert len(_blocks(README)) > 10
    assert _blocks(CHINESE) == _blocks(README)
    start, end = "<!-- quickstart:begin -->", "<!-- quickstart:end -->"
    english, translated = (page.partition(start)[2].partition(end)[0] for page in (README, CHINESE))
    models = re.compile(r"^\| \w+ \| [\d,]+ \|.*$", re.MULTILINE)
    not_reached = chinese.CHINESE["not reached"]
    rows = [row.replace("not reached", not_reached) for row in models.findall(english)]
    assert len(rows) > 4
    assert models.findall(translated) == rows
    figures = re.compile(r"\d+\.\d+%?|[\d,]{7,}")
    assert set(figures.findall(translated)) == set(figures.findall(english))
    assert "(README.md" not in CHINESE.split("\n", 3)[3]
    assert len(re.findall("^## ", CHINESE, re.MULTILINE)) == len(
        re.findall("^## ", README, re.MULTILINE)
    )


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "CONTRIBUTING.md"])
def test_links_of_the_first_pages_lead_to_files(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_every_page_has_its_place() -> None:
    """The strict build says so, too, where mkdocs is installed."""
    listed = set(re.findall(r"[\w./]+\.md", (REPOSITORY / "mkdocs.yml").read_text()))
    pages = (REPOSITORY / "docs").rglob("*.md")
    assert {page.relative_to(REPOSITORY / "docs").as_posix() for page in pages} == listed


def test_the_documentation_is_built_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; pip install -c constraints.txt -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path / 'site'}"],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site/api/pruning/index.html").read_text(encoding="utf-8")
    assert 'id="openba_jax.pruning.apply.prune_checkpoint"' in reference
