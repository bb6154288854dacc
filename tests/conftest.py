"""What every test shares: one thread a process, no hub, 32-bit by default (tests of exactness ask for 64)."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
