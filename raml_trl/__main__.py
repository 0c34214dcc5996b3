"""`raml-trl X ...` and `python -m raml_trl X ...`: the same as `python -m raml_trl.X ...`."""

import runpy
import sys

COMMANDS = ("build_model", "prepare_data", "train_sft", "train_grpo", "evaluate", "report")
USAGE = f"usage: raml-trl {{{','.join(COMMANDS)}}} --config RECIPE.yaml [--field value ...]"


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(USAGE)
        return
    if name not in COMMANDS:
        print(f"raml-trl: unknown command {name!r}\n{USAGE}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[0]
    runpy.run_module(f"raml_trl.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
