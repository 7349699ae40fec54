"""Tests of the Triton kernels on a CPU: collected only in a process that interprets them.

`tests/kernels/test_interpreted.py` starts one such process per file. By hand:

    TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted/test_sparse_decode.py
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
