"""Processes that have everything imported: `[*PREPARED, "script.py", ...]` in place of `[sys.executable, ...]`.

Importing torch and transformers takes longer than what most tests do in a process of their own. So one process imports
once (`serve`, which conftest.py starts) and is forked for each command. What a test starts is `relay`: it hands over
its arguments, folder, environment and open files, passes signals on, and ends as the command ends; when it is killed,
so is the command. Of each kind of test one starts a process from nothing.

    python tests/prepared.py mask_impact_analysis.py --model demo --prompt Hello    # within a test
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

POSSIBLE = sys.platform == "linux"  # which alone can hand over open files by a name that is no path
PREPARED = [sys.executable, "-S", "-E", __file__] if POSSIBLE else [sys.executable]
# What the commands import late, too: models, and what starts several processes.
EVERYTHING = [
    *("mask_impact_analysis", "mask_impact_vl", "latent_lens", "mask_impact.jobs.session", "mask_impact.files.results"),
    *("torch.distributed.launcher.api", "accelerate.utils.launch", "transformers.models.auto.modeling_auto"),
]
NAME, SERVER = "MASK_IMPACT_PREPARED", "MASK_IMPACT_SERVER"


def start() -> None:
    """Start the server, for this process and those it starts; it ends with this one."""
    address = f"mask-impact-tests-{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + address)
    listener.listen(64)
    os.environ[NAME] = address
    environment = os.environ | {"OMP_NUM_THREADS": "1", SERVER: str(listener.fileno())}
    start.kept = subprocess.Popen(  # type: ignore[attr-defined] # its standard input ends when this process does
        [sys.executable, __file__], stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env=environment
    )
    listener.close()


def relay(argv: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect("\0" + os.environ[NAME])
        request = json.dumps([argv, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(request).to_bytes(8)], [0, 1, 2])
        server.sendall(request)
        command = answer(server)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(command, number))
        code = answer(server)
    if code < 0:  # by a signal, and so is this process
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def answer(server: socket.socket) -> int:
    found = server.recv(8, socket.MSG_WAITALL)
    return int.from_bytes(found, signed=True) if found else sys.exit("the process that is forked has ended")


def serve(listener: socket.socket) -> list[str]:
    """Returns the command line in each child; the server itself ends with its standard input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the commands
    while True:
        if 0 in select.select([0, listener], [], [])[0]:
            os._exit(0)
        connection = listener.accept()[0]
        length, files, *_ = socket.recv_fds(connection, 8, 3)
        request = json.loads(connection.recv(int.from_bytes(length), socket.MSG_WAITALL))
        import_everything()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (command := os.fork()) == 0:
                connection.close()
                return become(files, *request)
            wait(command, connection, files)
        connection.close()
        for file in files:
            os.close(file)


def wait(command: int, connection: socket.socket, files: list[int]) -> None:
    """Tell the relay how it ends; end it when the relay is gone."""
    for file in [0, 1, 2, *files]:
        os.close(file)
    connection.send(command.to_bytes(8))
    if connection in select.select([os.pidfd_open(command), connection], [], [])[0]:
        os.kill(command, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    connection.send(code.to_bytes(8, signed=True))
    os._exit(0)


def import_everything() -> None:
    for name in EVERYTHING:
        importlib.import_module(name)
    gc.freeze()  # children collect only what is theirs
    assert len(os.listdir("/proc/self/task")) == 1, "other threads would be missing in the child, with what they hold"


def become(files: list[int], argv: list[str], folder: str, environment: dict[str, str]) -> list[str]:
    """All that this process would have if the command had been started as one."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding, "backslashreplace", closefd=False)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    return argv


def run(argv: list[str]) -> None:
    """As `python`: a script, -m a module, or -c some code."""
    import runpy
    import tempfile

    import torch

    torch.set_num_threads(1)
    tempfile.tempdir = None  # the environment may name another
    main: dict[str, Any] = {"__name__": "__main__"}
    sys.path[0] = "" if argv[0] in ("-c", "-m") else os.path.dirname(os.path.abspath(argv[0]))
    sys.argv[:] = argv[1:] if argv[0] == "-m" else ["-c", *argv[2:]] if argv[0] == "-c" else argv
    if argv[0] == "-c":
        exec(argv[1], main)
    elif argv[0] == "-m":
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    if SERVER not in os.environ:
        sys.exit(relay(sys.argv[1:]))
    sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    run(serve(socket.socket(fileno=int(os.environ.pop(SERVER)))))
