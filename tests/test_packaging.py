"""What the package says of itself holds together."""

from __future__ import annotations

import tomllib

from edge.backends.llama_library import NEWEST, OLDEST, supported
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_llama_extra_installs_a_version_whose_taps_are_tested():
    (pin,) = [
        need for need in PROJECT["optional-dependencies"]["llama"] if need.startswith("llama-cpp-python")
    ]
    assert pin == f"llama-cpp-python=={'.'.join(map(str, NEWEST))}"
    assert OLDEST <= NEWEST


def test_versions_are_known_by_number_not_by_text():
    assert supported("0.3.36")
    assert not supported("0.3.4")
    assert not supported("0.3.100")
    assert not supported("1.0.0.dev1")
    assert not supported("unknown")


def test_the_tests_have_the_binding():
    assert any("llama" in need for need in PROJECT["optional-dependencies"]["dev"])
