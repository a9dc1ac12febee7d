"""The wheel stands without its checkout, and a native run without seqio and TensorFlow."""

from __future__ import annotations

import configparser
import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDLESS = ("seqio", "tensorflow", "tensorflow_text", "tensorflow_datasets", "t5x", "torch", "clu")


def _run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution of this checkout, both made elsewhere."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("openba_jax", "gin", "tasks", "examples"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=skipped)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy / name)
    code = "from setuptools import build_meta; build_meta.build_sdist('..')"
    _run(sys.executable, "-c", code, cwd=copy)
    (source,) = folder.glob("*.tar.gz")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    _run(sys.executable, "-m", "pip", "wheel", *quiet, source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


def test_a_wheel_holds_the_package_and_its_gin_files_alone(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"openba_jax"}
    modules = {str(path.relative_to(REPOSITORY)) for path in _files("openba_jax", "*.py")}
    gin_files = {f"openba_jax/{path.relative_to(REPOSITORY)}" for path in _files("gin", "*.gin")}
    assert len(modules) > 50
    assert len(gin_files) > 20
    assert {n for n in names if n.endswith(".py")} == modules
    assert {n for n in names if n.endswith(".gin")} == gin_files
    assert "openba_jax/py.typed" in names


def test_the_page_of_a_wheel_leads_to_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        page = archive.read(name).decode()
    fields = email.message_from_string(page)
    addresses = dict(field.split(", ") for field in fields.get_all("Project-URL", []))
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(addresses)
    assert fields["License-Expression"] == "Apache-2.0"
    pythons = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)}
    assert {*pythons, "Typing :: Typed"} <= set(fields.get_all("Classifier", []))
    # Links that are relative in README.md lead nowhere on a page outside of the repository.
    links = re.findall(r"\]\(([^)#]+)", fields.get_payload())
    assert len(links) > 20
    assert [link for link in links if not link.startswith("https://")] == []
    assert f"({addresses['Source']}/raw/main/docs/images/quickstart_losses.png)" in page


def _files(folder: str, pattern: str) -> list[Path]:
    return list((REPOSITORY / folder).rglob(pattern))


@pytest.mark.slow(reason="three minutes: starts every main, some of them several times")
def test_every_main_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """In an environment with this one's dependencies, save seqio, TensorFlow and their kin."""
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    site = Path(
        _run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path)[:-1]
    )
    # Named in a .pth file, a folder's own .pth files do not count: an editable install is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in NEEDLESS:
        (site / f"{name}.py").write_text(f"raise ImportError('{name} is not to be imported')\n")
    _run(
        *(sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet"),
        *("--disable-pip-version-check", "--no-deps", "--no-index", wheel),
        cwd=tmp_path,
    )
    facts = tmp_path / "facts"
    _run(
        *(sys.executable, "-m", "examples.facts", f"--output_dir={facts}"),
        *("--facts_per_relation=2", "--documents=400", "--instructions=300", "--choice_share=0"),
        cwd=REPOSITORY,
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    where = "import openba_jax; print(openba_jax.__file__)"
    assert str(site) in _run("python", "-c", where, cwd=empty, PATH=path)
    _run("bash", REPOSITORY / "tests/packaging/every_main.sh", facts, cwd=empty, PATH=path)


def test_lean_requirements_are_those_of_the_package() -> None:
    """Without seqio, which brings TensorFlow."""
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    all_of_them = set(settings["options"]["install_requires"].split())
    lean = (REPOSITORY / "requirements/lean.txt").read_text(encoding="utf-8")
    lines = {line for line in lean.splitlines() if line and not line.startswith("#")}
    assert {r for r in all_of_them - lines if not re.match(r"seqio\W", r)} == set()
    assert lines <= all_of_them
