"""Makes scripts with which bash, zsh and fish complete commands, their settings, packaged recipes and files.

A script contains the names of all commands, settings and recipes. It does not call raml_trl, so completion takes no
time. To make a script, every command is asked once for its settings, which imports the libraries and takes about as
long as the start of a training.
"""

import io
import re
import runpy
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout

from raml_trl.runtime.commands import COMMANDS, STAGES, TOOLS
from raml_trl.runtime.recipes import list_recipes

SHELLS = ("bash", "zsh", "fish")
_OPTION = re.compile(r"^  --(\[no_\])?([a-z]\w*)", re.MULTILINE)


def completion_script(shell: str) -> str:
    """Return the completion script for one of `SHELLS`."""
    options = {command: command_options(command) for command in COMMANDS}
    recipes = [recipe.name for recipe in list_recipes()]
    return _fish_script(options, recipes) if shell == "fish" else _bash_script(options, recipes, zsh=shell == "zsh")


def command_options(command: str) -> list[str]:
    """Return the options of a command, in the order of its help."""
    page, arguments = io.StringIO(), sys.argv
    sys.argv = [command, "--help_all"]
    try:
        with redirect_stdout(page):
            runpy.run_module(f"raml_trl.{command}", run_name="__main__")
    except SystemExit:
        pass
    finally:
        sys.argv = arguments
    options = ["--config", "--help_all"]
    for negated, name in _OPTION.findall(page.getvalue()):
        options += [f"--{name}", *([f"--no_{name}"] if negated else [])]
    return options


def _bash_script(options: Mapping[str, Iterable[str]], recipes: Iterable[str], *, zsh: bool) -> str:
    """Return the script for bash, which zsh can read with `bashcompinit`."""
    cases = "\n".join(f'    {command}) options="{" ".join(words)}" ;;' for command, words in options.items())
    shell = "zsh" if zsh else "bash"
    start = "autoload -U +X compinit && compinit; autoload -U +X bashcompinit && bashcompinit" if zsh else ""
    return f"""# Completion of raml-trl: `raml-trl completion {shell} > FILE`, and `source FILE` when {shell} starts.
{start}
_raml_trl() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" options=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join([*COMMANDS, *TOOLS, "--help", "--version"])}" -- "$word"))
    return
  fi
  case "$(printf %s "${{COMP_WORDS[1]}}" | tr - _)" in
{cases}
    completion) COMPREPLY=($(compgen -W "{" ".join(SHELLS)}" -- "$word")); return ;;
  esac
  case "$word" in
    --*) COMPREPLY=($(compgen -W "$options" -- "--$(printf %s "${{word#--}}" | tr - _)")); return ;;
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")); return ;;
  esac
  COMPREPLY=($(compgen -f -- "$word"))
  case "$before" in
    --config) ;;
    -*) return ;;
  esac
  COMPREPLY+=($(compgen -W "{" ".join(recipes)}" -- "$word"))
}}
complete -o filenames -F _raml_trl raml-trl
"""


def _fish_script(options: Mapping[str, Iterable[str]], recipes: Iterable[str]) -> str:
    lines = ["# Completion of raml-trl for fish: raml-trl completion fish > ~/.config/fish/completions/raml-trl.fish"]
    for group in (*STAGES.values(), TOOLS):
        for name, about in group.items():
            lines.append(f"complete -c raml-trl -n __fish_use_subcommand -f -a {name} -d '{about}'")
    lines.append(f"complete -c raml-trl -n '__fish_seen_subcommand_from completion' -f -a '{' '.join(SHELLS)}'")
    named = " ".join([*COMMANDS, "init"])
    lines.append(f"complete -c raml-trl -n '__fish_seen_subcommand_from {named}' -a '{' '.join(recipes)}'")
    for command, words in options.items():
        for word in words:
            lines.append(
                f"complete -c raml-trl -n '__fish_seen_subcommand_from {command}' -l {word.removeprefix('--')}"
            )
    return "\n".join(lines) + "\n"
