"""Models: found, loaded, adapted and run over ragged batches."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it where it is there; it reports a package that it does without
