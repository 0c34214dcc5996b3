"""The `raml-trl` program. For a command X, `raml-trl X ...` is short for `python -m raml_trl.X ...`."""

import argparse
import runpy
import sys

COMMANDS = (
    "build_model",
    "prepare_data",
    "sample_trajectories",
    "train_sft",
    "train_grpo",
    "evaluate",
    "compare",
    "pseudo_gradient",
    "loss_landscape",
    "trajectory_pruning",
    "report",
    "plan",
    "sweep",
    "wandb_report",
    "weigh_claims",
    "compare_rules",
    "check_trl",
)


def main() -> None:
    """Run the command named by the first argument. The command parses the other arguments itself."""
    parser = argparse.ArgumentParser(prog="raml-trl", epilog="raml-trl COMMAND --help lists the settings of a command.")
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args(sys.argv[1:2]).command
    del sys.argv[0]
    runpy.run_module(f"raml_trl.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
