"""The last import of the fork server (see prefork.py); importing it is what it is for.

What has been imported is taken out of garbage collection, so that collections in the forks do not
write to it, which would end the sharing of its memory; and it is not taken apart at exit, which
would need seconds.
"""

import atexit
import gc
import os

gc.collect()
gc.freeze()
atexit.register(os._exit, 0)
