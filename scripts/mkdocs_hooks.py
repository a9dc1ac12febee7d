"""What mkdocs does not do by itself: a page for each room of the package, links out of `docs/`."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "openba_jax"
API = "API"
LINK = re.compile(r"(\]\()(\.\.[^)#\s]*)")


def on_config(config):
    """Lists the pages of the reference."""
    rooms = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    pages = [{f"openba_jax.{room}": f"api/{room}.md"} for room in rooms]
    config.nav = [*(item for item in config.nav if API not in item), {API: pages}]
    return config


def on_files(files, config):
    """Makes the pages of the reference: mkdocstrings fills them from the docstrings."""
    for item in config.nav:
        for page in item.get(API, []) if isinstance(item, dict) else []:
            for module, path in page.items():
                files.append(File.generated(config, path, content=f"::: {module}\n"))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links to files of the repository outside of `docs/` to the repository."""

    def outside(found):
        start, link = found.groups()
        path = posixpath.normpath(
            posixpath.join("docs", posixpath.dirname(page.file.src_uri), link)
        )
        if path.startswith("docs/"):
            return found[0]
        if not (ROOT / path).exists():
            # Left as it is, the link fails the strict build, which names page and link.
            return found[0]
        return f"{start}{config.repo_url}/blob/main/{path}"

    return LINK.sub(outside, markdown)
