"""An aarch64 Python with the project's base dependencies, and an emulator that runs it; fetched once,
without root.

The packages come from Debian trixie through this machine's own apt: its configured Debian repository with
another suite, its own lists and cache, nothing installed. Wheels come through pip for the other platform and
are unpacked, not run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from edge.errors import UserError
from edge.machine.native import FLAGS, LINK_FLAGS, keep
from edge.signals.compiled import SOURCE

ROOT = Path(__file__).resolve().parent.parent.parent
SUITE = "trixie"
OLDEST_QEMU = 10  # 7.2 of bookworm crashes when onnxruntime is imported
PYTHON = "3.13"  # trixie's
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARM64_LIBRARIES = "usr/lib/aarch64-linux-gnu"
ARM64_PACKAGES = (
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "libssl3t64",
    "libzstd1",
)
COMPILER = "ziglang>=0.15,<0.18"  # clang with aarch64's headers in one wheel, for edge's compiled code
WHEEL_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def debian_repository(targets: str) -> str:
    """URI of the Debian archive among the repositories apt is set up for, one `URI component` a line."""
    for line in targets.splitlines():
        uri, _, component = line.rpartition(" ")
        if component == "main" and uri.rstrip("/").endswith("/debian"):
            return uri
    raise UserError(
        "apt on this machine is set up for no Debian archive, which the aarch64 Python comes from: run this "
        "on Debian"
    )


def sources(uri: str) -> str:
    """An apt sources entry (deb822) of the same archive's trixie, for both architectures."""
    return (
        f"Types: deb\nURIs: {uri}\nSuites: {SUITE}\nComponents: main\n"
        f"Architectures: amd64 arm64\nSigned-By: {KEYRING}\n"
    )


def qemu_major(version: str) -> int:
    """Major version from the output of `qemu-aarch64 --version`, 0 where there is none."""
    found = re.search(r"version (\d+)\.", version)
    return int(found[1]) if found else 0


def installed_qemu() -> str | None:
    """A qemu-aarch64 on PATH that is new enough."""
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        path = shutil.which(name)
        if (
            path
            and qemu_major(subprocess.run([path, "--version"], capture_output=True, text=True).stdout)
            >= OLDEST_QEMU
        ):
            return path
    return None


def call(command: Sequence[str], doing: str, **options: str | Path) -> str:
    """Standard output of a command; raises UserError with the last line of its complaint."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is missing, cannot {doing}: run this on Debian") from error
    if done.returncode:
        complaint = (
            done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        ).splitlines()[-1]
        raise UserError(
            f"cannot {doing} ({complaint}): check the network and the configured package sources, then try "
            f"again"
        )
    return done.stdout


class Emulator:
    """Runs aarch64 Python scripts with the project and its base dependencies; `folder` holds what was
    fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.root, self.site = self.folder / "root", self.folder / "site"
        self.qemu = installed_qemu() or str(self.folder / "qemu/usr/bin/qemu-aarch64")

    def prepare(self) -> bool:
        """Fetches what is missing; True when something was fetched. Raises UserError in one sentence when it
        cannot."""
        fetched = [SUITE, PYTHON, ARM64_PACKAGES, WHEEL_PLATFORMS, COMPILER, requirements()]
        key = hashlib.sha256(json.dumps(fetched).encode()).hexdigest()
        ready = self.folder / "ready"
        if ready.is_file() and ready.read_text() == key and Path(self.qemu).is_file():
            return False
        if os.uname().machine != "x86_64":
            raise UserError(
                f"this compares aarch64 with x86-64, and this machine is {os.uname().machine}: run it on a "
                f"x86-64 one"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        self._fetch_debian()
        self._fetch_wheels()
        self._fetch_compiler()
        ready.write_text(key)
        return True

    def _fetch_debian(self) -> None:
        listed = call(
            ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"],
            "read apt's sources",
        )
        apt, packages = self.folder / "apt", self.folder / "debs"
        for each in (apt / "lists/partial", apt / "cache/archives/partial", packages):
            each.mkdir(parents=True)
        (apt / "status").touch()
        (apt / "debian.sources").write_text(sources(debian_repository(listed)))
        options = {
            "Dir::State": apt,
            "Dir::State::lists": apt / "lists",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
            "Dir::Log": apt,
            "Dir::Etc::sourcelist": apt / "debian.sources",
            "Dir::Etc::sourceparts": "-",
            "APT::Architecture": "amd64",
            "APT::Architectures::": "arm64",
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",
        }
        command = [
            "apt-get",
            "-q",
            *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
        ]
        call([*command, "update"], f"read Debian {SUITE}'s package lists")
        wanted = [f"{name}:arm64" for name in ARM64_PACKAGES] + (
            [] if installed_qemu() else ["qemu-user:amd64"]
        )
        call(
            [*command, "download", *wanted], f"fetch {len(wanted)} packages of Debian {SUITE}", cwd=packages
        )
        for package in sorted(packages.glob("*.deb")):
            into = self.root if package.name.endswith("_arm64.deb") else self.folder / "qemu"
            call(["dpkg-deb", "-x", str(package), str(into)], f"unpack {package.name}")
        # The dynamic loader's fixed name, which a package of its own makes on an installed system.
        (self.root / "lib").symlink_to("usr/lib")
        shutil.rmtree(packages)
        shutil.rmtree(apt)

    def _fetch_wheels(self) -> None:
        platforms = [part for name in WHEEL_PLATFORMS for part in ("--platform", name)]
        tags = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, *platforms]
        self._unpack([*tags, *requirements()], self.site, "fetch the aarch64 wheels")

    def _fetch_compiler(self) -> None:
        self._unpack(["--no-deps", COMPILER], self.folder / "compiler", "fetch a compiler for aarch64")
        (self.folder / "compiler/ziglang/zig").chmod(0o755)

    def _unpack(self, wanted: Sequence[str], into: Path, doing: str) -> None:
        """The wheels that pip downloads for these arguments."""
        wheels = self.folder / "wheels"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            str(wheels),
        ]
        call([*pip, *wanted], doing)
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(into)
        shutil.rmtree(wheels)

    def compile_signals(self, cpu: str) -> None:
        """Puts edge's compiled code where the aarch64 Python looks for it, and has it tried there; raises
        RuntimeError when it is not used."""
        ask = (
            "from edge.machine.native import cache_stem; "
            "from edge.signals.compiled import SOURCE, flags_here; "
            "print(cache_stem(SOURCE, flags_here()), *flags_here())"
        )
        at, *flags = self.run(["-c", ask], cpu).split()
        Path(at).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = self.folder / "made.so"
        zig = [
            str(self.folder / "compiler/ziglang/zig"),
            "cc",
            "-target",
            "aarch64-linux-gnu",
            *FLAGS,
            *flags,
        ]
        call([*zig, "-o", str(made), str(SOURCE), *LINK_FLAGS], "compile for aarch64")
        keep(made, Path(at))
        if problem := self.run(
            ["-c", "from edge.signals.compiled import compiled_code as c; print(c().problem)"], cpu
        ).strip():
            raise RuntimeError(f"{cpu}: compiled code is not used: {problem}")

    def run(self, arguments: Sequence[str], cpu: str) -> str:
        """Standard output of the aarch64 Python on an emulated `cpu`; raises RuntimeError with all it said
        when it fails."""
        environment = {
            "PYTHONHOME": self.root / "usr",
            "PYTHONPATH": f"{self.site}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": 1,
            "LD_LIBRARY_PATH": self.root / ARM64_LIBRARIES,
            "XDG_CACHE_HOME": self.folder / "cache",
        }
        given = [part for name, value in environment.items() for part in ("-E", f"{name}={value}")]
        python = str(self.root / f"usr/bin/python{PYTHON}")
        done = subprocess.run(
            [self.qemu, "-L", str(self.root), "-cpu", cpu, *given, python, *arguments],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode} on {cpu}:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def requirements() -> list[str]:
    """The base dependencies of pyproject.toml."""
    listed: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    return listed
