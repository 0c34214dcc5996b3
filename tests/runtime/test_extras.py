"""Nothing tells people to install raml_trl from an index on which anybody could take its name."""

import re
import shlex
import subprocess
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

from raml_trl.runtime.extras import how_to_install
from tests.helpers import REPOSITORY

_FROM_AN_INDEX = re.compile(
    r"""pip3? install\b[^\n]*?['" ]raml[_-]trl(\[\w+\])?(?! @|['"]? @)(?=['",.;:) ]|$)""", re.MULTILINE
)


def test_no_hint_installs_from_an_index() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    texts = [
        REPOSITORY / name
        for name in listed.splitlines()
        if Path(name).suffix in (".py", ".md", ".yaml", ".yml", ".cfg", ".ipynb", "")
    ]
    here = Path(__file__)
    hints = [
        f"{path.relative_to(REPOSITORY)}: {match[0]}"
        for path in texts
        if path not in (here, REPOSITORY / "raml_trl/runtime/extras.py") and path.is_file()
        for match in _FROM_AN_INDEX.finditer(path.read_text(encoding="utf-8"))
    ]
    assert hints == []
    assert _FROM_AN_INDEX.search("not installed: pip install raml_trl[vllm], or set use_vllm: false")
    assert not _FROM_AN_INDEX.search('pip install "raml_trl[vllm] @ git+https://x"')


def test_the_hint_names_the_checkout_or_the_packages(tmp_path: Path) -> None:
    assert how_to_install("vllm").endswith('run pip install -c constraints.txt -e ".[vllm]"')
    extras = ConfigParser()
    extras.read(REPOSITORY / "setup.cfg")
    for extra in ("vllm", "deepspeed", "wandb", "trackio"):
        asked = [Requirement(line) for line in extras["options.extras_require"][extra].split()]
        command = shlex.split(how_to_install(extra, checkout=tmp_path))
        assert command[:3] == ["run", "pip", "install"]
        assert list(map(Requirement, command[3:])) == asked
