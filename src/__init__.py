"""The pipeline. Importing it sets what must be set before torch and scikit-learn load their threads."""

import os
import signal
import sys

# A thread of OpenMP that waits for another must not spin: beside any other process that other has lost its core, and
# both stand still. Read once, when the library is loaded; processes that are started inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A stage begins: until it handles Ctrl-C by itself it has nothing to lose, and ends silently.
if sys.argv[0] == "-m":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
