"""Says how to install the optional packages of raml_trl.

raml_trl is not on a package index, so `pip install raml_trl[...]` would install what a stranger publishes there under
this name.
"""

import shlex
from importlib.metadata import requires
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def how_to_install(extra: str, checkout: Path = _CHECKOUT) -> str:
    """Return an instruction, with the command that installs an extra, such as `vllm`.

    Args:
        extra: the name of the extra.
        checkout: the root of the checkout. If there is no checkout here, the command names the packages of the extra.
    """
    if (checkout / "setup.cfg").is_file():
        return f'in the checkout of raml_trl, run pip install -c constraints.txt -e ".[{extra}]"'
    lines = [line.partition(";") for line in requires("raml_trl") or ()]
    packages = [package.strip() for package, _, condition in lines if condition.strip() == f'extra == "{extra}"']
    return f"run pip install {shlex.join(packages)}"
