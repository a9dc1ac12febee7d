"""What setup.cfg cannot say: the packages and files of the wheel, and the text of its page.

gin/ becomes openba_jax/gin. README's links are relative to the repository; on the page of a package
index they lead to the repository's address.
"""

import configparser
import re
from pathlib import Path

from setuptools import find_packages, setup

settings = configparser.ConfigParser()
settings.read("setup.cfg", encoding="utf-8")
address = settings["metadata"]["project_urls"].split()[2]
relative = r"\((?![a-z]+:|#)"
readme = Path("README.md").read_text(encoding="utf-8")
readme = re.sub(rf"(!\[[^]]*\]){relative}", rf"\1({address}/raw/main/", readme)
readme = re.sub(rf"\]{relative}", f"]({address}/blob/main/", readme)

setup(
    packages=[*find_packages(include=["openba_jax", "openba_jax.*"]), "openba_jax.gin"],
    package_dir={"openba_jax.gin": "gin"},
    package_data={
        "openba_jax": ["py.typed"],
        "openba_jax.gin": ["**/*.gin"],
        "openba_jax.serving": ["page/*"],
    },
    long_description=readme,
    long_description_content_type="text/markdown",
)
