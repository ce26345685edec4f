"""Sensors of recorded boards, of broken ones and of none; pauses above a temperature."""

from __future__ import annotations

import time

import pyarrow.parquet as pq
import pytest

import edge.cli.app
import edge.jobs.session
from edge.jobs.interrupt import Interrupted
from edge.machine import boards, cooling, telemetry
from edge.machine.boards import pmic_watts
from edge.machine.cooling import HYSTERESIS, Cooling
from edge.machine.telemetry import Sensors, telemetry_table
from tests.boards import make_board, put
from tests.test_cli_errors import call
from tests.test_crash_run import arguments, assert_same_rows


def sensors(folder, name):
    root = make_board(folder, name)
    return root, Sensors(root, path=str(root / "bin"))


def test_a_hot_pi_4_says_that_it_is_slowed_down(tmp_path):
    found = sensors(tmp_path, "pi4")[1].sample(7)
    assert (found.question_index, found.temperature_c, found.frequency_mhz, found.frequency_limit_mhz) == (
        7,
        82.277,
        1000.0,
        1800.0,
    )
    # 0xe0008: at the soft temperature limit now; capped, throttled and at that limit before, never short of
    # voltage.
    assert (found.throttle_flags, found.throttled, found.throttled_before) == (0xE0008, True, True)
    assert (found.power_w, found.energy_j, found.over_current_events) == (None, None, None)
    assert found.memory_available_bytes == 3300000 * 1024
    assert found.swap_used_bytes == 4796 * 1024
    assert found.rss_bytes % 300 == 0


def test_a_cool_pi_5_has_no_flags_and_says_what_it_draws(tmp_path):
    found = sensors(tmp_path, "pi5")[1].sample(0)
    assert (found.temperature_c, found.frequency_mhz) == (51.25, 2400.0)
    assert (found.throttle_flags, found.throttled, found.throttled_before) == (
        0,
        False,
        False,
    )  # its fan slows nothing down
    assert found.power_w == pytest.approx(0.08 * 3.7 + 0.06 * 3.3 + 1.5 * 0.8)


def test_a_jetson_has_zones_rails_and_counters(tmp_path):
    root, found = sensors(tmp_path, "jetson")
    sample = found.sample(0)
    assert sample.temperature_c == 50.406  # the zone that is switched off is not -256
    assert (sample.frequency_mhz, sample.frequency_limit_mhz) == (1510.4, 1510.4)
    assert sample.power_w == pytest.approx(5.080 * 1.2)  # VDD_IN alone: the others are inside it
    assert sample.over_current_events == 3
    assert (sample.throttled, sample.throttle_flags, sample.throttled_before) == (False, None, None)
    put(root, "sys/class/thermal/cooling_device0/cur_state", "1\n")
    assert found.sample(1).throttled is True


def test_flags_that_the_kernel_passes_on_need_no_program(tmp_path):
    root, _ = sensors(tmp_path, "pi4")
    put(root, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    found = Sensors(root, path=str(root / "bin")).sample(0)
    assert (found.throttle_flags, found.throttled, found.throttled_before) == (0x50005, True, True)


def test_vcgencmd_is_asked_seldom(tmp_path, monkeypatch):
    root, found = sensors(tmp_path, "pi5")
    for i in range(50):
        found.sample(i)
    assert (root / "asked").read_text().count("x") == 2  # both questions once
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    put(root, "recorded/get_throttled", "throttled=0x4\n")
    assert found.sample(0).throttle_flags == 4
    assert (root / "asked").read_text().count("x") == 4


@pytest.mark.parametrize(
    "text",
    ["", "N/A\n", "throttled=", "throttled=0xzz", "error=1", "throttled=-0x5", "throttled=0xfffffffff"],
)
def test_an_answer_that_is_none_is_null(text, tmp_path):
    root, found = sensors(tmp_path, "pi4")
    put(root, "recorded/get_throttled", text)
    assert found.sample(0).throttle_flags is None


@pytest.mark.parametrize(
    "program",
    ["#!/bin/sh\nexit 1\n", "#!/no/such/interpreter\n", "rubbish", "#!/bin/sh\nprintf '\\377\\376'\n"],
)
def test_a_vcgencmd_that_does_not_work_is_no_error(program, tmp_path):
    root, found = sensors(tmp_path, "pi5")
    (root / "bin" / "vcgencmd").write_text(program)
    sample = found.sample(0)
    assert (sample.throttle_flags, sample.power_w) == (None, None)
    assert sample.temperature_c == 51.25


def test_a_vcgencmd_that_hangs_is_given_up(tmp_path, monkeypatch):
    root, found = sensors(tmp_path, "pi4")
    monkeypatch.setattr(boards, "COMMAND_SECONDS", 0.2)
    (root / "bin" / "vcgencmd").write_text("#!/bin/sh\nexec sleep 30\n")
    started = time.monotonic()
    assert [found.sample(i).throttle_flags for i in range(5)] == [None] * 5
    assert time.monotonic() - started < 5


def test_a_machine_without_sensors_has_nulls(tmp_path):
    sample = Sensors(tmp_path, path=str(tmp_path)).sample(3)
    assert [name for name, value in sample._asdict().items() if value is not None] == [
        "unix_time",
        "question_index",
        "paused_s",
    ]
    table = telemetry_table([sample])
    assert table.column("temperature_c").null_count == table.column("throttled").null_count == 1


@pytest.mark.parametrize("content", ["", "N/A", "\0\0", "12.5", "9" * 40])
def test_files_that_hold_no_number_are_null(content, tmp_path):
    """9...9 degrees is a number, but no temperature."""
    for name in ("thermal/thermal_zone0/temp", "hwmon/hwmon0/oc1_event_cnt"):
        put(tmp_path, f"sys/class/{name}", content)
    sample = Sensors(tmp_path, path=str(tmp_path)).sample(0)
    assert sample.temperature_c is None
    assert (sample.over_current_events is None) == (content != "9" * 40)


def test_a_file_that_cannot_be_read_any_more_is_null(tmp_path):
    root, found = sensors(tmp_path, "jetson")
    for path in ("sys/class/thermal/thermal_zone8/temp", "sys/class/hwmon/hwmon1/curr1_input"):
        (root / path).unlink()
        (root / path).mkdir()  # EISDIR, as a driver's EIO would be
    sample = found.sample(0)
    assert sample.temperature_c == 50.187
    assert sample.power_w is None


def test_energy_is_counted_between_samples_over_a_wrap(tmp_path):
    package = "sys/class/powercap/intel-rapl:0"
    put(tmp_path, f"{package}/energy_uj", "1000000")
    put(tmp_path, f"{package}/max_energy_range_uj", "5000000")
    put(
        tmp_path, "sys/class/powercap/intel-rapl:0:0/energy_uj", "1"
    )  # inside the package: not counted twice
    found = Sensors(tmp_path, path=str(tmp_path))
    put(tmp_path, f"{package}/energy_uj", "3500000")
    assert found.sample(0).energy_j == pytest.approx(2.5)
    put(tmp_path, f"{package}/energy_uj", "500000")
    assert found.sample(1).energy_j == pytest.approx(2.0)
    put(tmp_path, f"{package}/energy_uj", "broken")
    assert found.sample(2).energy_j is None
    put(tmp_path, f"{package}/energy_uj", "900000")
    assert found.sample(3).energy_j is None  # unknown how far it had come
    put(tmp_path, f"{package}/energy_uj", "1900000")
    assert found.sample(4).energy_j == pytest.approx(1.0)


def test_rails_without_both_numbers_are_left_out():
    assert (
        pmic_watts(
            "A_A current(0)=1.0A\nA_V volt(1)=2.0V\nB_A current(2)=5A\nC_V volt(3)=5V\nD_A current(4)=..A"
        )
        == 2.0
    )
    assert pmic_watts("EXT5V_V volt(24)=5.1V") is None


def test_sampling_is_cheap_on_this_machine():
    """Not a benchmark: a sample must not walk a tree each time."""
    found = Sensors()
    assert found.sample(0).rss_bytes > 1e6
    opened = []
    read = telemetry.read_text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "read_text", lambda path: opened.append(path) or read(path))
        found.sample(1)
    assert len(opened) <= 4


# Pauses


def heat(root, *degrees):
    """A sleep that sets the next temperature."""
    left = list(degrees)

    def sleep(seconds):
        assert seconds > 0
        put(root, "sys/class/thermal/thermal_zone0/temp", f"{int(1000 * left.pop(0))}\n")

    return sleep


def test_it_waits_until_it_is_cooler_by_the_hysteresis(tmp_path):
    root, found = sensors(tmp_path, "pi4")  # 82.277 degrees
    notes, checks = [], []
    sleep = heat(root, 81.0, 79.0, 75.5, 74.9)
    cooling = Cooling(found, 80.0, lambda: checks.append(1), notes.append, sleep)
    cooling.wait()
    assert notes == ["82.3 °C, above 80: waiting until it is 75"]
    assert len(checks) == 4
    assert found.temperature() == 74.9
    assert 80.0 - HYSTERESIS == 75.0
    assert cooling.taken() > 0.0
    assert cooling.taken() == 0.0


def test_below_it_or_without_a_limit_nothing_waits(tmp_path):
    root, found = sensors(tmp_path, "pi5")
    Cooling(found, 80.0, pytest.fail, pytest.fail, pytest.fail).wait()
    Cooling(found, None, pytest.fail, pytest.fail, pytest.fail).wait()
    cooling = Cooling(found, 80.0, pytest.fail, pytest.fail, pytest.fail)
    cooling.wait()
    put(root, "sys/class/thermal/thermal_zone0/temp", "99000\n")
    cooling.wait()  # looked a moment ago


def test_a_signal_ends_the_waiting(tmp_path):
    root, found = sensors(tmp_path, "pi4")

    def stop():
        raise Interrupted(143)

    with pytest.raises(Interrupted):
        Cooling(found, 80.0, stop, lambda text: None, heat(root, 82.0)).wait()


def test_a_sensor_that_falls_silent_ends_the_waiting(tmp_path):
    root, found = sensors(tmp_path, "pi4")
    Cooling(
        found,
        80.0,
        lambda: None,
        lambda text: None,
        lambda s: (root / "sys/class/thermal/thermal_zone0/temp").unlink(),
    ).wait()
    assert found.temperature() is None


def test_a_run_pauses_says_so_and_has_the_same_rows(
    artifacts, questions_file, tmp_path, monkeypatch, capsys
):
    root = make_board(tmp_path, "pi4")
    monkeypatch.setattr(telemetry, "SYSTEM", root)
    monkeypatch.setattr(telemetry.Sensors.__init__, "__defaults__", (root, str(root / "bin")))
    monkeypatch.setattr(cooling.Cooling.__init__, "__defaults__", (heat(root, 70.0),))
    command = arguments(artifacts("odd"), questions_file, tmp_path / "hot", "--pause-above", "80")
    assert call(edge.cli.app.main, command, tmp_path) == 0
    assert "82.3 °C, above 80: waiting until it is 75" in capsys.readouterr().err
    rows = pq.read_table(tmp_path / "hot" / "device.parquet").to_pylist()
    assert rows[0]["throttle_flags"] == 0xE0008
    assert rows[0]["temperature_c"] == 70.0
    assert [row["paused_s"] > 0 for row in rows] == [True] + [False] * 6
    assert (
        call(edge.cli.app.main, arguments(artifacts("odd"), questions_file, tmp_path / "cool"), tmp_path)
        == 0
    )
    assert_same_rows(tmp_path / "hot", tmp_path / "cool")
    # It decides nothing: the run may be taken up with another limit.
    assert (
        call(
            edge.cli.app.main,
            arguments(artifacts("odd"), questions_file, tmp_path / "hot", "--pause-above", "60"),
            tmp_path,
        )
        == 0
    )


def test_a_machine_without_a_thermometer_cannot_be_cooled(
    artifacts, questions_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(telemetry.Sensors.__init__, "__defaults__", (tmp_path / "nothing", ""))
    command = arguments(artifacts("odd"), questions_file, tmp_path / "run", "--pause-above", "80")
    assert call(edge.cli.app.main, command, tmp_path) == 2
    assert "--pause-above needs a temperature sensor" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_telemetry_of_an_older_version_is_gone_on_with(artifacts, questions_file, tmp_path):
    out = tmp_path / "run"
    assert call(edge.cli.app.main, arguments(artifacts("odd"), questions_file, out), tmp_path) == 0
    old = pq.read_table(out / "device.parquet").select(
        ["unix_time", "question_index", "rss_bytes", "temperature_c"]
    )
    pq.write_table(old, out / "device.parquet")
    next((out / "answers").glob("part-*")).unlink()
    assert call(edge.cli.app.main, arguments(artifacts("odd"), questions_file, out), tmp_path) == 0
    again = pq.read_table(out / "device.parquet")
    assert again.num_rows == 14
    assert again.column("paused_s").null_count == 7
