"""Python processes that start at once: forks of one process that has imported the large libraries.

A test that starts ``python -m dfs_edu ...`` waits seconds for torch. ``[*python(), "-m", "dfs_edu", ...]`` does the
same in a process of its own, with its own arguments, environment, folder and standard streams, ended by the same
signals, and with the same status. Only LIBRARIES are shared; dfs_edu is imported afresh each time.

Not for tests of what is imported and when, of variables that libraries read while they load (OMP_NUM_THREADS), or of
killed processes: a killed client takes its fork along, but a moment later.

    python warm.py serve SOCKET PID      the server, which ends with the process PID
    python warm.py SOCKET -m MODULE ...  a client, as is -c CODE ...
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import cache
from typing import NoReturn

LIBRARIES = """
torch torch._dynamo torch.nn.parallel torch.utils.data torch.utils.flop_counter torchvision torchvision.transforms.v2
numpy scipy.optimize scipy.special plotly.graph_objects plotly.subplots ipywidgets anywidget IPython ipykernel.kernelapp
nbformat safetensors.torch tyro tqdm.auto annotated_types filelock
"""
HEADER = 16  # digits of a message's length


@cache
def python() -> list[str]:
    """Return the words that start a process, as ``[sys.executable]`` does; the first call starts the server."""
    if not hasattr(os, "pidfd_open"):  # only Linux has it
        return [sys.executable]
    return [sys.executable, "-I", "-S", __file__, _started()]


def _started() -> str:
    """Return the socket of a server that all workers of pytest-xdist share, started if it is not there."""
    import subprocess
    import tempfile

    from filelock import FileLock

    worker = "PYTEST_XDIST_WORKER" in os.environ
    tests = os.getppid() if worker else os.getpid()
    socket_of = f"{tempfile.gettempdir()}/dfs-warm-{tests}"
    with FileLock(f"{socket_of}.lock"):
        if not os.path.exists(socket_of):
            command = [sys.executable, __file__, "serve", socket_of, str(tests)]
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
    return socket_of


def client(path: str, arguments: list[str]) -> None:
    """Ask the server for a fork, hand it the standard streams, and end as it ends."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(server, [f"{len(request):{HEADER}}".encode()], [0, 1, 2])
    server.sendall(request)
    answers = server.makefile()
    pid = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = int(answers.readline() or 1)  # nothing: the server died
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def serve(path: str, tests: int) -> list[str]:
    """Fork for each client; return in the fork alone, with the arguments that the client asked for."""
    import gc
    import importlib
    import selectors

    sys.modules["rfc3987_syntax"] = None  # as in figures/look.py
    for name in LIBRARIES.split():
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a fork's collections copy no memory

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    ended = os.pidfd_open(tests)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # it only has to wake the loop
    awake, wake = os.pipe()
    for end in (awake, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    running: dict[int, socket.socket] = {}  # pid -> client
    ready = selectors.DefaultSelector()
    for source in (listening, awake, ended):
        ready.register(source, selectors.EVENT_READ)
    print("ready", flush=True)

    while True:
        for key, _ in ready.select():
            if key.fileobj == ended:  # the tests are over
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                for left in (path, f"{path}.lock"):
                    os.unlink(left)
                sys.exit()
            elif key.fileobj == awake:
                os.read(awake, 4096)
            elif key.fileobj is listening:
                asked, _ = listening.accept()
                received = _receive(asked)
                if received and not (pid := os.fork()):
                    _become(*received, [listening, asked, *running.values()], [awake, wake, ended])
                    return received[0]["arguments"]
                if not received:
                    continue
                for stream in received[1]:
                    os.close(stream)
                asked.sendall(f"{pid}\n".encode())
                running[pid] = asked
                ready.register(asked, selectors.EVENT_READ, pid)
            else:  # a client was killed
                ready.unregister(key.fileobj)
                if key.data in running:
                    os.kill(key.data, signal.SIGKILL)

        # Forks that have ended
        for pid in list(running):
            over, status = os.waitpid(pid, os.WNOHANG)
            if over:
                asked = running.pop(pid)
                if asked in ready.get_map():
                    ready.unregister(asked)
                with contextlib.suppress(BrokenPipeError):
                    asked.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                asked.close()


def _receive(asked: socket.socket) -> tuple[dict, list[int]] | None:
    """A client's request and its standard streams; None if it died while asking."""
    header, streams, _, _ = socket.recv_fds(asked, HEADER, 3)
    text = b""
    while header and len(text) < int(header):
        part = asked.recv(int(header) - len(text))
        if not part:
            return None
        text += part
    return (json.loads(text), streams) if header else None


def _become(request: dict, streams: list[int], sockets: list[socket.socket], pipes: list[int]) -> None:
    """Turn a fork into the process that was asked for, up to its arguments."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for one in sockets:
        one.close()
    for end in pipes:
        os.close(end)
    environment = request["environment"]
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    for number, (name, stream) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
        os.dup2(stream, number)
        os.close(stream)
        file = open(number, "w" if number else "r", encoding=encoding, buffering=1, closefd=False)  # noqa: SIM115
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    if "JPY_PARENT_PID" in environment:  # a kernel ends when its parent does
        environment["JPY_PARENT_PID"] = str(os.getppid())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["folder"])
    more = [os.path.abspath(folder) for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = ["", *more, *(folder for folder in sys.path if folder not in more)]


def ends(run: Callable[[], None]) -> NoReturn:
    """Run, and end as Python does, but for the seconds in which it would take down every library."""
    import atexit
    import threading
    import traceback

    status = 0
    try:
        run()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if status and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status & 0xFF)


def run(arguments: list[str]) -> None:
    """Run what follows ``python``: -m MODULE ..., or -c CODE ..."""
    import runpy
    import types

    kind, what, *words = arguments
    if kind == "-m":
        sys.argv = ["-m", *words]
        sys.path[0] = os.getcwd()
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *words]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))
    else:
        sys.exit(f"warm.py: {kind!r}: only -m and -c")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path.pop(0)
        asked = serve(sys.argv[2], int(sys.argv[3]))
        ends(lambda: run(asked))
    else:
        client(sys.argv[1], sys.argv[2:])
