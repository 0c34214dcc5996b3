"""A Python interpreter for child processes that has already imported torch, transformers, TRL and matplotlib.

    subprocess.run([*python(), "-m", "raml_trl.evaluate", ...])

behaves like `subprocess.run([sys.executable, "-m", "raml_trl.evaluate", ...])`, but saves the ten seconds of CPU time
that these imports take. A server imports the libraries once, and forks for every child. The program that the test
starts is a client, which passes its arguments, environment, directory and standard streams to the server, waits for the
child, and ends as the child ends. If the client is killed, the server kills the child. If the child is
`accelerate launch`, the processes of the launch are children of the server, too.

The workers of pytest-xdist share a server, which ends when no worker is left. The server imports no module of raml_trl.
It differs from a new interpreter in three ways: hash seeds are the same in every child, only the options `-u`, `-c` and
`-m` work, and `import` costs nothing. A test of the imports themselves uses `sys.executable`.
"""

import errno
import fcntl
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LENGTH_BYTES = 8
READY = "ready\n"
SOURCES_OF_SETTINGS = ("huggingface_hub.constants", "datasets.config")  # these modules read the environment on import
READERS_OF_SETTINGS = ("huggingface_hub", "datasets", "transformers", "trl")  # packages that copy these settings


@cache
def python() -> list[str]:
    """Return the first arguments of a command that runs Python. The first call in a test session starts the server."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    home = Path(tempfile.gettempdir(), f"raml_trl_python_{session}")
    home.mkdir(mode=0o700, exist_ok=True)
    client = [sys.executable, "-I", "-S", __file__, "forward", str(home / "socket")]
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (share_server(home) and starts_children(client)):
            start_server(home)
    return client


def share_server(home: Path) -> bool:
    """Keep the server of this session alive until this process ends. Return False if there is none."""
    try:
        os.open(home / "users", os.O_WRONLY | os.O_NONBLOCK)  # it stays open, and the server waits for its end
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO):
            raise
        return False
    return True


def starts_children(client: list[str]) -> bool:
    """Return whether the server still starts children, and does not end, because other processes have left it."""
    return subprocess.run([*client, "-c", ""], stderr=subprocess.DEVNULL, check=False).returncode == 0


def start_server(home: Path) -> None:
    for path in (home / "users", home / "socket"):
        path.unlink(missing_ok=True)
    os.mkfifo(home / "users")
    command = [sys.executable, "-P", __file__, "serve", str(home)]  # -P: no module in this directory hides another
    with open(os.open(home / "users", os.O_RDONLY | os.O_NONBLOCK)) as users:
        assert share_server(home)
        process = subprocess.Popen(command, stdin=users, stdout=subprocess.PIPE, text=True, process_group=0)
    with process.stdout as output:  # the server writes nothing else
        if output.readline() != READY:
            raise RuntimeError("the server has ended before it could fork")


def forward(address: str, *arguments: str) -> None:
    """Run Python with `arguments` in a child of the server, and end with its exit code or by its signal."""
    request = {"arguments": arguments, "directory": os.getcwd(), "environment": dict(os.environ)}
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(content).to_bytes(LENGTH_BYTES, "big")], [0, 1, 2])
        connection.sendall(content)
        child = int.from_bytes(receive(connection, LENGTH_BYTES), "big")
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(child, number))
        code = int.from_bytes(receive(connection, LENGTH_BYTES), "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


def receive(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            raise ConnectionError("the server has ended")
        content += part
    return content


def serve(home: str) -> None:
    """Import the libraries, then fork for every client until standard input is closed. Children return from here."""
    import gc
    import selectors

    import datasets  # noqa: F401
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import torch._dynamo
    import torch.distributed.tensor  # noqa: F401
    from transformers import AutoModelForCausalLM, Trainer  # noqa: F401
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: F401

    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{home}/socket")
    listener.listen(64)
    executable = Path(home, "python")
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" forward "{home}/socket" "$@"\n')
    executable.chmod(0o700)
    sys.stdout.write(READY)
    sys.stdout.flush()
    selector.register(listener, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}  # by file descriptor of the child: its number and its client
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                for child, _connection in running.values():
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            if key.fileobj is listener:
                connection, _ = listener.accept()
                prefix, streams, _, _ = socket.recv_fds(connection, LENGTH_BYTES, 3)
                request = json.loads(receive(connection, int.from_bytes(prefix, "big")))
                child = os.fork()
                if child == 0:
                    for open_file in (selector, listener, connection, *(other for _, other in running.values())):
                        open_file.close()
                    request["environment"]["PYTHON_EXEC"] = str(executable)  # torch's launcher starts it
                    return become(request, streams)
                for stream in streams:
                    os.close(stream)
                connection.sendall(child.to_bytes(LENGTH_BYTES, "big"))
                ended = os.pidfd_open(child)
                running[ended] = child, connection
                selector.register(ended, selectors.EVENT_READ, ended)
                selector.register(connection, selectors.EVENT_READ, ended)
            elif key.data in running:
                child, connection = running[key.data]
                if key.fileobj is connection:  # the client was killed
                    os.kill(child, signal.SIGKILL)
                    selector.unregister(connection)
                    continue
                _, status = os.waitpid(child, 0)
                code = os.waitstatus_to_exitcode(status)
                if connection in {other.fileobj for other in selector.get_map().values()}:
                    selector.unregister(connection)
                    connection.sendall(code.to_bytes(LENGTH_BYTES, "big", signed=True))
                selector.unregister(key.data)
                os.close(key.data)
                connection.close()
                del running[key.data]


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Turn this process into the child that the client asked for, and run its program."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["directory"])
    before = settings()
    os.environ.clear()
    os.environ.update(request["environment"])
    if settings() != before:
        read_settings_again()
    option, program, *arguments = request["arguments"]
    if option == "-u":
        sys.stdout.reconfigure(line_buffering=True)
        option, program, *arguments = program, *arguments
    search = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [os.getcwd() if option == "-m" else "", *search, *sys.path]
    sys.argv = [option, *arguments]
    if option == "-m":
        import runpy

        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif option == "-c":
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(program, "<string>", "exec"), vars(main))
    else:
        raise SystemExit(f"python() runs programs with -c and -m, not with {option}: use sys.executable")


def settings() -> dict[str, str]:
    """Return the environment variables that Hugging Face's libraries read on import."""
    return {name: value for name, value in os.environ.items() if name.startswith(("HF_", "XDG_", "HOME"))}


def read_settings_again() -> None:
    """Make the libraries use the settings in the environment of the child instead of those of the server."""
    from huggingface_hub import hf_api

    for source in SOURCES_OF_SETTINGS:
        module = sys.modules[source]
        before = dict(vars(module))
        importlib.reload(module)
        changed = {name for name, value in vars(module).items() if name.isupper() and value != before.get(name)}
        for reader in [sys.modules[name] for name in sys.modules if name.partition(".")[0] in READERS_OF_SETTINGS]:
            for name in changed & set(vars(reader)):
                setattr(reader, name, getattr(module, name))
    hf_api.api.endpoint = sys.modules["huggingface_hub.constants"].ENDPOINT


if __name__ == "__main__":
    {"serve": serve, "forward": forward}[sys.argv[1]](*sys.argv[2:])
