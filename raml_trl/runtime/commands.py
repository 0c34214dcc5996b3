"""The commands of `raml-trl` by stage of the work, with a line about each. A command X is the module `raml_trl.X`."""

STAGES: dict[str, dict[str, str]] = {
    "Data": {
        "prepare_data": "check questions and trajectories, and write the valid ones",
        "sample_trajectories": "sample and grade trajectories of a teacher model",
    },
    "Training": {
        "build_model": "build a small Qwen2 model with random weights",
        "train_sft": "fine-tune on K trajectories per question",
        "train_grpo": "train with GRPO on m of G rollouts per question",
        "plan": "predict the time and memory of a GRPO step for several m",
        "check_trl": "compare our GRPO trainer with that of the installed TRL",
    },
    "Evaluation": {
        "evaluate": "sample answers, grade them and compute Pass@k, mG-Pass@k and maj@k",
        "compare": "compare evaluations of the same questions, with p-values",
    },
    "Analysis": {
        "pseudo_gradient": "measure the likelihood of the answer after every token of a trajectory",
        "loss_landscape": "map the loss around a model",
        "trajectory_pruning": "measure how much of a trajectory a model needs",
    },
    "Sweeps and reports": {
        "sweep": "run one recipe with many combinations of settings",
        "compare_rules": "compare rules of selection at equal cost",
        "weigh_claims": "test claims on the results of sweeps",
        "report": "write a page about runs, evaluations and sweeps",
        "wandb_report": "make a report page in Weights & Biases",
    },
}

COMMANDS = tuple(command for commands in STAGES.values() for command in commands)

TOOLS = {
    "recipes": "list the packaged recipes: raml-trl recipes [TEXT]",
    "init": "copy a recipe, or a folder of recipes, to edit it: raml-trl init NAME [DIR]",
    "completion": "print a completion script: raml-trl completion bash|zsh|fish",
}
"""The subcommands that make no run. Except for `completion`, they import neither torch nor TRL."""
