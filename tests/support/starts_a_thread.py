"""A module whose import leaves a thread behind, as BLAS libraries do: nothing may be forked after it."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
