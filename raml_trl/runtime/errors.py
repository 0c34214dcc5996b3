"""The one exception a command turns into a clear line and exit code 2."""


class InputError(ValueError):
    """Something the user gave (a config, a data file, a checkpoint, a directory) cannot be used.

    The message is one line: it names the value and says what to do about it. Anything else that goes wrong is a
    defect of the program and keeps its traceback.
    """
