"""Nobody looks for garbage until all tests are imported (conftest.py): among modules that takes a fifth of the time."""

import gc

gc.disable()
