"""Config paths: the local files and directories that a config names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def located(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that name local files and directories, with absolute paths."""

    def absolute(value: Any) -> Any:
        return str(Path(value).expanduser().absolute()) if isinstance(value, str) else value

    def there(value: Any) -> Any:
        # A path that is not on this machine may be a dataset of the hub.
        return absolute(value) if isinstance(value, str) and Path(value).exists() else value

    found = {key: absolute(settings[key]) for key in ("init_adapter",) if key in settings}
    if isinstance(name := settings.get("model_name"), str) and Path(name).expanduser().is_dir():
        found["model_name"] = name if name.startswith("builtin/") else absolute(name)
    if "chat_template" in settings:
        template = settings["chat_template"]
        found["chat_template"] = template if template == "chatml" else absolute(template)
    if isinstance(data := settings.get("data"), list):
        found["data"] = [{**share, "path": there(share["path"])} for share in data]
    elif "data" in settings:
        found["data"] = there(data)
    return found
