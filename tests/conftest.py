"""One thread a process: on tensors as small as the tests', threads bring nothing, and wait for each other for minutes
where other work shares the cores. Set before torch is imported, and handed on to the processes that tests start."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
