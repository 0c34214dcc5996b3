"""Adds the recipes and launcher configurations, which lie beside the package, to it. setup.cfg has everything else."""

from setuptools import find_packages, setup

BESIDE = ("recipes", "accelerate_configs")

setup(
    packages=[*find_packages(include=["raml_trl*"]), *(f"raml_trl.{folder}" for folder in BESIDE)],
    package_dir={f"raml_trl.{folder}": folder for folder in BESIDE},
)
