"""``python -m mlx_lora``: the command line interface."""

import os
import sys

# `python -m` puts the working directory first, where a numpy.py of the user's would be taken for the package.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from .cli.main import main

main()
