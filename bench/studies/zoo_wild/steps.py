"""One network through one tool in a process of its own: ``python -m ...zoo_wild.steps TOOL NAME DIR``.

What is found is written to DIR/row.json after each part, so that whatever a crash leaves undone is known by name.
"""

from __future__ import annotations

import math
import signal
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from slimtask.bench.studies.harness import parser_of
from slimtask.bench.studies.zoo.steps import Row
from slimtask.bench.studies.zoo_wild import peer, slim
from slimtask.bench.studies.zoo_wild.subjects import Subject, subject
from slimtask.compress.score.cost import count_parameters

TOOLS = {"slimtask": slim.halve, "peer": peer.halve}


class OutOfTime(BaseException):
    """The CPU seconds are over; not an Exception, so that no tool takes it for a fault of the network."""


@contextmanager
def _told(row: Row) -> Iterator[None]:
    """Return a context that writes an exception it meets into the row, with where it was raised."""
    try:
        yield
    except OutOfTime:
        row.set(status="fail", kind="timeout", reason=f"{row.values['part']}: took longer than the CPU seconds it had")
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}"
        row.set(status="fail", kind="traceback", reason=f"{type(error).__name__}: {first} ({where})")


def run(tool: str, name: str, folder: Path) -> None:
    """Halve one network by one tool and leave what was found in ``folder``/row.json."""
    row = Row(folder / "row.json")
    with _told(row):
        row.set(part="build")
        started = time.process_time()
        what: Subject = subject(name)
        row.set(params_before=count_parameters(what.model), seconds_build=round(time.process_time() - started, 2))
        row.set(part="removal")
        TOOLS[tool](what, row)


def limit_cpu(seconds: int) -> None:
    """Raise OutOfTime when this process has used so many more CPU seconds, and end it half a minute of them later."""
    import resource

    def stop(*_: object) -> None:
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        raise OutOfTime

    signal.signal(signal.SIGXCPU, stop)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time()) + seconds
    last = soft + 30 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, last), last))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step of one network on one thread."""
    parser = parser_of("zoo_wild.steps", __doc__)
    parser.add_argument("tool", choices=sorted(TOOLS))
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu-seconds", type=int, default=120, help="limit of CPU time")
    options = parser.parse_args(arguments)
    limit_cpu(options.cpu_seconds)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run(options.tool, options.name, options.folder)
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)  # or the interpreter's own end could be killed on the last second


if __name__ == "__main__":
    main()
