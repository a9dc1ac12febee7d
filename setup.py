"""Packages and files of the wheel: gin/ becomes openba_jax/gin. All else stands in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["openba_jax", "openba_jax.*"]), "openba_jax.gin"],
    package_dir={"openba_jax.gin": "gin"},
    package_data={"openba_jax.gin": ["**/*.gin"], "openba_jax.serving": ["page/*"]},
)
