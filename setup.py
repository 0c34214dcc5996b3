"""Adds the recipes, which lie beside the package in a checkout, to the package. setup.cfg has everything else."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["raml_trl*"]), "raml_trl.recipes"],
    package_dir={"raml_trl.recipes": "recipes"},
)
