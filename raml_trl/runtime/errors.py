"""The exception for user errors, which a command reports in one line with exit code 2."""


class InputError(ValueError):
    """An input cannot be used: a setting, a data file, a checkpoint or a directory.

    The message is one line that names the value and then the remedy. Any other exception is a defect of the program
    and keeps its traceback.
    """
