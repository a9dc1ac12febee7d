"""The repository's address stands in the metadata; whatever else names it says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# A page on GitHub, and what stands before it in the address of a Colab page.
ADDRESS = re.compile(
    r"(?:https://github\.com|colab\.research\.google\.com/github)/([\w.-]+/openba_jax)"
)
NAMING = {
    *("README.md", "README.zh.md", "CITATION.cff", "mkdocs.yml"),
    *(f"scripts/colab/{file.name}" for file in (REPOSITORY / "scripts/colab").glob("*.ipynb")),
}


def _named(file: str) -> set[str]:
    return set(ADDRESS.findall((REPOSITORY / file).read_text(encoding="utf-8")))


def test_there_is_one_address_in_the_metadata() -> None:
    assert len(_named("setup.cfg")) == 1


@pytest.mark.parametrize("file", sorted(NAMING))
def test_every_file_names_the_address_of_the_metadata(file: str) -> None:
    (address,) = _named("setup.cfg")
    assert _named(file) == {address}, (
        f"{file} names another repository than setup.cfg; change all at once: "
        f"git grep -l {address} | xargs sed -i 's#{address}#OWNER/openba_jax#g'"
    )


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    version = (REPOSITORY / "openba_jax/version.py").read_text(encoding="utf-8")
    assert re.findall(r'__version__ = "(.*)"', version) == re.findall(
        r"^version: (.*)$", citation, re.MULTILINE
    )
