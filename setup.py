"""Adds the recipes and launcher configurations, which lie beside the package, to it. setup.cfg has everything else."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

BESIDE = ("recipes", "accelerate_configs")


class BuildWithRecipes(build_py):
    """Put the folders `BESIDE` into a wheel. An editable install finds them in the checkout."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [*self.packages, *(f"raml_trl.{folder}" for folder in BESIDE)]
            self.package_dir = self.package_dir | {f"raml_trl.{folder}": folder for folder in BESIDE}


setup(
    packages=find_packages(include=["raml_trl*"]),
    # With this entry, an editable install adds the checkout to sys.path. Otherwise setuptools installs an import hook,
    # and a checkout named raml_trl hides the package from scripts beside it.
    package_dir={"": "."},
    cmdclass={"build_py": BuildWithRecipes},
)
