"""docs/architecture.md: the places that it names exist, and its table is the contract that is checked."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REPO = Path(__file__).parent.parent
TEXT = (REPO / "docs" / "architecture.md").read_text()


def test_every_file_of_the_parity_tier_exists():
    conftest = (REPO / "tests" / "conftest.py").read_text()
    named = set(re.findall(r'"(test_\w+)"', conftest[: conftest.index("def ")]))
    assert len(named) >= 10
    assert named <= {path.stem for path in REPO.glob("tests/*/test_*.py")}


def section(title):
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_place_for_a_new_line_exists():
    named = re.findall(r"`((?:mlx_lora|configs|docs)/[^`]*)`", section("Where does a new line go?"))
    assert len(named) >= 15
    missing = [place for place in named if not any(REPO.glob(place.replace("NAME", "*").rstrip("/")))]
    assert missing == []


def test_every_package_is_in_the_table_in_the_order_of_the_contract():
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())
    contract = [contract for contract in settings["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"]
    layers = [name.strip() for layer in reversed(contract[0]["layers"]) for name in layer.split(":")]
    rows = [row.split("|")[1] for row in section("Packages").splitlines() if row.startswith("| `")]
    table = [re.sub(r"\.py|/", "", name) for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(table) == sorted(layers)
    order = {name: place for place, name in enumerate(layers)}
    places = [order[name] for name in table if name not in ("files", "user_files", "processes", "memory")]
    assert places == sorted(places)
    packages = {path.name for path in (REPO / "mlx_lora").iterdir() if (path / "__init__.py").exists()}
    packages |= {path.stem for path in (REPO / "mlx_lora").glob("*.py")} - {"__init__", "__main__"}
    assert packages == set(layers)


def test_modules_stay_small():
    """No module has more than 300 lines, and none of the commands more than 70."""
    package = REPO / "mlx_lora"
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in package.rglob("*.py")}
    most = {file: 70 if file.is_relative_to(package / "cli") else 300 for file in lines}
    assert {str(file.relative_to(REPO)): count for file, count in lines.items() if count > most[file]} == {}
