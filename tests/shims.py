"""A system that behaves otherwise: a library put before libc (LD_PRELOAD), compiled from C where it runs.

It notes every socket that is not local and every name that is looked up, refuses fsync of folders, and knows
no user. Each is off until its variable is set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) dlsym(RTLD_NEXT, name)

static void note(const char *what, const char *detail) {
    const char *path = getenv("SHIM_NETWORK");
    if (!path) return;
    char line[300];
    int length = snprintf(line, sizeof line, "%s %s\n", what, detail ? detail : "");
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0) return;
    if (write(file, line, (size_t)length) != length) abort();
    close(file);
}

int socket(int domain, int type, int protocol) {
    int (*real)(int, int, int) = REAL("socket");
    char number[20];
    snprintf(number, sizeof number, "%d", domain);
    if (domain != AF_UNIX) note("socket", number);
    return real(domain, type, protocol);
}

typedef int (*lookup)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **results) {
    lookup real = REAL("getaddrinfo");
    note("getaddrinfo", node);
    return real(node, service, hints, results);
}

int fsync(int file) {
    int (*real)(int) = REAL("fsync");
    const char *refused = getenv("SHIM_FSYNC");
    struct stat status;
    if (refused && !fstat(file, &status) && S_ISDIR(status.st_mode)) {
        errno = atoi(refused);
        return -1;
    }
    return real(file);
}

struct passwd *getpwuid(uid_t user) {
    struct passwd *(*real)(uid_t) = REAL("getpwuid");
    if (!getenv("SHIM_NOBODY")) return real(user);
    errno = 0;
    return NULL;
}

int getpwuid_r(uid_t user, struct passwd *entry, char *buffer, size_t size, struct passwd **result) {
    int (*real)(uid_t, struct passwd *, char *, size_t, struct passwd **) = REAL("getpwuid_r");
    if (!getenv("SHIM_NOBODY")) return real(user, entry, buffer, size, result);
    *result = NULL;
    return 0;
}
"""
SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


def compile_shim(folder: Path) -> Path:
    """The library; skips the test where no C compiler is installed."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the library that is put before libc")
    (folder / "shim.c").write_text(SOURCE)
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "shim.c", "-ldl"], check=True)
    return library


SERVICES = {
    *("CI", "APPVEYOR", "CIRCLECI", "CODEBUILD_BUILD_ID", "GITHUB_ACTIONS", "JENKINS_URL"),
    *("TEAMCITY_VERSION", "TF_BUILD", "TRAVIS"),
}


def environment(home: Path | None, **more: str) -> dict[str, str]:
    """A user's environment with this tree's package; no switch of telemetry is set.

    Nor is it known as a service that runs tests, where onnxruntime sends nothing by itself.
    """
    dropped = {"HOME", "EDGE_DEBUG", "PYTHONIOENCODING", *SWITCHES, *SERVICES}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("XDG_", "HF_"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | ({"HOME": str(home)} if home else {}) | more


def edge(*words: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "edge", *map(str, words)]


def edge_export(*words: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "export", *map(str, words)]


def edge_in(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `edge` in a folder, which is also its home, in a process that may crash without harm."""
    return subprocess.run(
        edge(*words),
        cwd=folder,
        env=environment(folder, GGML_NO_BACKTRACE="1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
