"""Guards of the night: what pmset and Linux say, in several versions, and the sentences about it."""

from __future__ import annotations

import pytest

from mlx_lora.memory import memory_sizes
from mlx_lora.sleep import guards
from mlx_lora.sleep.config import GuardsConfig
from mlx_lora.sleep.guards import Power, check_guards, heat_of_pmset, judge_memory, judge_power, power_of_pmset

PMSET = {
    "Sequoia, charged": (
        "Now drawing from 'AC Power'\n -InternalBattery-0 (id=24182883)\t100%; charged; 0:00 remaining present: true\n",
        Power(True),
    ),
    "Sonoma, held at 80 %": (
        "Now drawing from 'AC Power'\n -InternalBattery-0 (id=4653155)\t80%; AC attached; not charging present: true\n",
        Power(True),
    ),
    "finishing charge": (
        "Now drawing from 'AC Power'\n -InternalBattery-0 (id=4653155)\t99%; finishing charge; 0:20 remaining present: "
        "true\n",
        Power(True),
    ),
    "on battery": (
        "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=22216803)\t41%; discharging; 3:12 remaining "
        "present: true\n",
        Power(False, 41),
    ),
    "just unplugged": (
        "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=22216803)\t7%; discharging; (no estimate) present: "
        "true\n\tBattery Warning: Early\n",
        Power(False, 7),
    ),
    "Snow Leopard": (
        "Currently drawing from 'Battery Power'\n -InternalBattery-0\t95%; discharging; 2:25 remaining\n",
        Power(False, 95),
    ),
    "a worn battery": (
        "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t63%; discharging; 1:02 remaining (Poor/Low)\n"
        '\tfailure: "Permanent"\n\tDetailed failures: "Cell Imbalance" present: true\n',
        Power(False, 63),
    ),
    "a desktop": ("Now drawing from 'AC Power'\n", Power(True)),
    "a desktop on its UPS": (
        "Now drawing from 'UPS Power'\n -Back-UPS ES 700G (id=7143424)\t88%; discharging; 0:31 remaining "
        "present: true\n",
        Power(False, 88),
    ),
    "battery and UPS": (
        "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t55%; discharging; 3:00 remaining present: true\n"
        " -Back-UPS 85% (id=2)\t100%; discharging; 0:31 remaining present: true\n",
        Power(False, 55),
    ),
    "a battery that says nothing": ("Now drawing from 'Battery Power'\n", Power(False)),
    "no such program": ("", Power(None)),
    "unknown": ("Strombezug: Netz\n 99%", Power(None)),
    "unknown source": ("Now drawing from 'Solar Power'\n", Power(None)),
}


@pytest.mark.parametrize("name", PMSET)
def test_power_of_pmset(name):
    text, expected = PMSET[name]
    assert power_of_pmset(text) == expected


@pytest.mark.parametrize(
    ("power", "limit", "ok", "said"),
    [
        (Power(True), None, True, "on AC power"),
        (Power(False, 41), 50, False, "on battery at 41 %, AC power or 50 % is asked for"),
        (Power(False, 50), 50, True, "on battery at 50 %, 50 % is asked for"),
        (
            Power(False, 100),
            None,
            False,
            "on battery at 100 %, AC power is asked for (guards.min_battery allows a battery)",
        ),
        (Power(False), None, False, "on battery, AC power is asked for (guards.min_battery allows a battery)"),
        (Power(False), 50, True, "on battery, and the system does not say at how many percent"),
        (Power(None), None, True, "the system does not say whether this machine is on battery"),
    ],
)
def test_the_limit_of_the_battery(power, limit, ok, said):
    found = judge_power(power, limit)
    assert (found.name, found.ok, found.said) == ("power", ok, said)


NOTES = (
    "Note: No thermal warning level has been recorded\n"
    "Note: No performance warning level has been recorded\n"
    "Note: No CPU power status has been recorded\n"
)


@pytest.mark.parametrize(
    ("text", "ok", "said"),
    [
        (NOTES, True, "no thermal warning"),
        (
            "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n"
            "2019-12-10 11:20:43 +0000 CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Available_CPUs \t= 8\n"
            "\tCPU_Speed_Limit \t= 100\n",
            True,
            "no thermal warning",
        ),
        ("2019-12-10 11:20:43 +0000 CPU Power notify\n\tCPU_Speed_Limit \t= 72\n", True, "at 72 % of its speed"),
        ("2019-12-10 11:20:43 +0000 CPU Power notify\n\tCPU_Speed_Limit \t= 31\n", False, "at 31 % of its speed"),
        ("2024-07-30 15:01:07 +0200 Thermal Warning Level = 0\n" + NOTES[49:], True, "no thermal warning"),
        (
            "2024-07-30 15:01:07 +0200 Thermal Warning Level = 5\n" + NOTES[49:],
            False,
            "too hot (thermal warning level 5)",
        ),
        ("2024-07-30 15:01:07 +0200 Thermal Warning Level = 255\n", True, "no thermal warning"),
        ("Error:Failed to get thermal warning level with error code 0xe00002bc\n", True, "says 'Error:Failed to get"),
        ("Wärme: keine\x1b[31m\nmehr", True, "says 'Wärme: keine"),
        ("", True, "says nothing"),
    ],
)
def test_heat_of_pmset(text, ok, said):
    cool, sentence = heat_of_pmset(text)
    assert cool is ok
    assert said in sentence


def supplies(directory, **found):
    for name, files in found.items():
        (directory / name).mkdir(parents=True)
        for file, content in files.items():
            (directory / name / file).write_text(content + "\n")
    return guards.power_of_supplies(directory)


BATTERY = {"type": "Battery", "present": "1", "status": "Discharging", "capacity": "41"}


def test_supplies_of_linux(tmp_path):
    mouse = {"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": "9"}
    off, on = {"type": "Mains", "online": "0"}, {"type": "Mains", "online": "1"}
    assert supplies(tmp_path / "none") == Power(True)
    assert supplies(tmp_path / "desktop", AC=on, hidpp=mouse) == Power(True)
    assert supplies(tmp_path / "mouse", hidpp=mouse) == Power(True)
    assert supplies(tmp_path / "laptop", AC=off, BAT0=BATTERY) == Power(False, 41)
    assert supplies(tmp_path / "two", AC=off, BAT0=BATTERY, BAT1={**BATTERY, "capacity": "81"}) == Power(False, 61)
    assert supplies(tmp_path / "plugged", AC=on, BAT0={**BATTERY, "status": "Charging"}) == Power(True)
    assert supplies(tmp_path / "usb", ucsi={"type": "USB", "online": "1"}, BAT0=BATTERY) == Power(True)
    assert supplies(tmp_path / "full", BAT0={**BATTERY, "status": "Full"}) == Power(True)
    assert supplies(tmp_path / "odd", AC=off, BAT0={**BATTERY, "capacity": "?"}) == Power(False)
    assert supplies(tmp_path / "unknown", AC=off, BAT0={**BATTERY, "status": "Unknown"}) == Power(None)
    assert supplies(tmp_path / "taken out", BAT0={**BATTERY, "present": "0"}) == Power(True)


def test_memory():
    assert judge_memory(None, 1).ok
    assert judge_memory(2e9, 2).ok
    found = judge_memory(1.5e9, 2)
    assert (found.ok, found.said) == (False, "1.5 GB of memory available, 2 GB are asked for (guards.min_memory_gb)")


def test_this_machine(tmp_path):
    """The real disk and memory, where nothing lies yet."""
    found = check_guards(GuardsConfig(min_disk_gb=0, min_memory_gb=0, min_battery=0), tmp_path / "a" / "b")
    assert [one.name for one in found] == ["disk", "power", "memory", "thermal"]
    assert all(one.ok for one in found)
    available = memory_sizes()[1]
    limits = GuardsConfig(min_disk_gb=1e6, min_memory_gb=(available or 0) / 1e9 + 1000, min_battery=0)
    found = check_guards(limits, tmp_path)
    assert [one.ok for one in found] == [False, True, False, True]
    assert found[0].said.endswith(f"GB free at {tmp_path}, 1e+06 GB are asked for (guards.min_disk_gb); make room")


def test_a_mac_on_battery(doubles, tmp_path):
    """pmset is the program on PATH, called with the arguments that it knows."""
    doubles.say("pmset -g batt", PMSET["on battery"][0])
    doubles.say("pmset -g therm", "2024-07-30 15:01:07 +0200 Thermal Warning Level = 10\n")
    found = {one.name: one for one in check_guards(GuardsConfig(min_battery=50), tmp_path, "darwin")}
    assert not found["power"].ok
    assert found["power"].said == "on battery at 41 %, AC power or 50 % is asked for"
    assert not found["thermal"].ok
    assert doubles.calls() == ["pmset -g batt", "pmset -g therm"]


def test_a_mac_as_it_usually_is(doubles, tmp_path):
    assert all(one.ok for one in check_guards(GuardsConfig(min_memory_gb=0, min_disk_gb=0), tmp_path, "darwin"))
