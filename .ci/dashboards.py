"""Every panel of every dashboard has data: `dashboards.py FOLDER-OF-PROGRAMS`.

A real Prometheus with our rules scrapes the running factory and two agents beside it, until each panel's query has an answer.
That the names are right where the answer may be "never happened" is metrics.py's to check. `loop.py` does the same and goes on.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from watched import Crew, Factory, Panels

# The factory plays six weeks of history and trains before it is live; all on a busy machine.
DEADLINE_SECONDS = 240


def main():
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        factory = Factory(stack, Path(name), Path(sys.argv[1]).resolve())
        factory.watch()
        began, crew, panels = time.monotonic(), Crew(factory.http), Panels()
        while not panels.look(factory) and time.monotonic() - began < DEADLINE_SECONDS and factory.is_well():
            time.sleep(1)
            crew.work()
        panels.print()
        if panels.waiting:
            factory.print_logs()
    sys.exit(bool(panels.waiting))


if __name__ == "__main__":
    main()
