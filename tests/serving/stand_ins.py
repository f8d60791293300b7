"""The command with stand-ins for the scheduler and the chat; this file goes once they are there."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class Nothing:
    def __init__(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


for name, attribute in (("scheduler", "Scheduler"), ("chat", "ChatService")):
    if find_spec(f"mlx_lora.serving.{name}") is not None:
        continue
    module = ModuleType(f"mlx_lora.serving.{name}")
    setattr(module, attribute, Nothing)
    sys.modules[module.__name__] = module

if __name__ == "__main__":
    from mlx_lora.cli.main import main

    main()
