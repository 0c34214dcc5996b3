"""The exception for user errors, which a command reports in one line with exit code 2."""


class InputError(ValueError):
    """Raised if an input (a setting, a data file, a checkpoint or a directory) cannot be used.

    The message is one line that names first the value and then the remedy. Any other exception is a defect of the
    program and keeps its traceback.
    """
