"""The torch backend: the same step through transformers and PEFT, on CUDA or the CPU (extra ``torch``)."""

import logging

from transformers.utils import logging as transformers_logging

# Their bars and hints would stand among our own lines.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
