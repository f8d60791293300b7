"""Torch backend: the same training step through transformers and PEFT, on CUDA or the CPU (extra ``torch``)."""

import logging

from transformers.utils import logging as transformers_logging

# Their progress bars and hints would mix with our own output.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
