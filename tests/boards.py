"""What three boards show of themselves, in the forms that their documentation gives: sysfs, procfs,
vcgencmd's answers.

Raspberry Pi: raspberrypi.com/documentation/computers/os.html (vcgencmd, get_throttled) and the kernel's
cpufreq and thermal drivers; Jetson Orin Nano: Jetson Linux Developer Guide r36, platform power and
performance (thermal zones, throttle alerts as cooling devices, INA3221 with VDD_IN, VDD_CPU_GPU_CV and
VDD_SOC, over-current counters oc1 to oc3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

ARM_CORE = (
    "processor\t: {n}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\n"
    "CPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
)
A72 = "fp asimd evtstrm crc32 cpuid"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
A78AE = A76 + " uscat ilrcpc flagm paca pacg"


class Board(NamedTuple):
    """Files below the root, answers of vcgencmd by its argument, and what `edge.machine.device.describe`
    must say of it."""

    files: dict[str, str]
    vcgencmd: dict[str, str]
    described: dict[str, Any]


def cpuinfo(cores: int, part: str, features: str, model: str = "") -> str:
    listed = "".join(ARM_CORE.format(n=n, part=part, features=features) for n in range(cores))
    return listed + (f"Revision\t: d03115\nModel\t\t: {model}\n" if model else "")


def meminfo(total: int, available: int, swap: int, swap_free: int) -> str:
    return (
        f"MemTotal:       {total} kB\nMemFree:         100000 kB\nMemAvailable:   {available} kB\n"
        f"SwapTotal:      {swap} kB\nSwapFree:       {swap_free} kB\n"
    )


PI4 = Board(
    files={
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
        "proc/cpuinfo": cpuinfo(4, "0xd08", A72, "Raspberry Pi 4 Model B Rev 1.5"),
        "proc/meminfo": meminfo(3882976, 3300000, 204796, 200000),
        "proc/self/statm": "5000 300 200 1 0 100 0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "82277\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1000000\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1800000\n",
    },
    vcgencmd={"get_throttled": "throttled=0xe0008\n"},
    described={
        "board": "Raspberry Pi 4 Model B Rev 1.5",
        "core_kinds": "4 Cortex-A72",
        "simd": ("asimd",),
        "swap_bytes": 204796 * 1024,
    },
)
PI5 = Board(
    files={
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/cpuinfo": cpuinfo(4, "0xd0b", A76, "Raspberry Pi 5 Model B Rev 1.0"),
        "proc/meminfo": meminfo(8256512, 6000000, 524272, 524272),
        "proc/self/statm": "9000 700 200 1 0 100 0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "51250\n",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "1\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2400000\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2400000\n",
    },
    vcgencmd={
        "get_throttled": "throttled=0x0\n",
        "pmic_read_adc": (
            "   3V7_WL_SW_A current(0)=0.08000000A\n   3V3_SYS_A current(1)=0.06000000A\n   VDD_CORE_A "
            "current(7)=1.50000000A\n"
            "   3V7_WL_SW_V volt(8)=3.70000000V\n   3V3_SYS_V volt(9)=3.30000000V\n   VDD_CORE_V "
            "volt(15)=0.80000000V\n"
            "     EXT5V_V volt(24)=5.15000000V\n      BATT_V volt(25)=0.00000000V\n"
        ),
    },
    described={
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "core_kinds": "4 Cortex-A76",
        "simd": ("asimd", "asimdhp", "asimddp"),
    },
)
JETSON = Board(
    files={
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/cpuinfo": cpuinfo(6, "0xd42", A78AE),
        "proc/meminfo": meminfo(7802464, 5000000, 3901216, 3901216),
        "proc/self/statm": "9000 800 200 1 0 100 0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "49968\n",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "50187\n",
        "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
        "sys/class/thermal/thermal_zone2/temp": "-256000\n",  # switched off
        "sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
        "sys/class/thermal/thermal_zone8/temp": "50406\n",
        "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert\n",
        "sys/class/thermal/cooling_device0/cur_state": "0\n",
        "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device1/cur_state": "2\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400\n",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1510400\n",
        "sys/class/hwmon/hwmon1/name": "ina3221\n",
        "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon1/in1_input": "5080\n",
        "sys/class/hwmon/hwmon1/curr1_input": "1200\n",
        "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
        "sys/class/hwmon/hwmon1/in2_input": "5080\n",
        "sys/class/hwmon/hwmon1/curr2_input": "400\n",
        "sys/class/hwmon/hwmon1/in3_label": "VDD_SOC\n",
        "sys/class/hwmon/hwmon1/in3_input": "5072\n",
        "sys/class/hwmon/hwmon1/curr3_input": "300\n",
        "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
        "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon2/oc2_event_cnt": "0\n",
        "sys/class/hwmon/hwmon2/oc3_event_cnt": "3\n",
    },
    vcgencmd={},
    described={
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "core_kinds": "6 Cortex-A78AE",
        "simd": ("asimd", "asimdhp", "asimddp"),
        "swap_bytes": 3901216 * 1024,
    },
)
BOARDS = {"pi4": PI4, "pi5": PI5, "jetson": JETSON}


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def make_board(folder: Path, name: str) -> Path:
    """The board's files below a root; its vcgencmd, if it has one, is a program in root/bin that gives the
    recorded answers."""
    board, root = BOARDS[name], folder / name
    for path, text in board.files.items():
        put(root, path, text)
    (root / "bin").mkdir()
    if board.vcgencmd:
        cases = ""
        for question, answer in board.vcgencmd.items():
            put(root, f"recorded/{question}", answer)
            cases += f'{question}) exec cat "{root}/recorded/{question}";;\n'
        program = root / "bin" / "vcgencmd"
        other = "*) echo 'error=2 error_msg=\"Invalid arguments\"'; exit 1;;"
        program.write_text(f"#!/bin/sh\necho x >> {root}/asked\ncase $1 in\n{cases}{other}\nesac\n")
        program.chmod(0o755)
    return root
