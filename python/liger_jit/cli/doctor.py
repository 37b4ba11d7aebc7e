"""Looks for what is wrong with this machine and its settings, and says what to do about it.

Compilers, devices, the library, whether it was tried with this torch and these transformers, the
cache's folders with their owners, file systems and free space, read-only layers, and whether the
server of LIGER_JIT_REMOTE reads and writes. Exit code 1 if something is broken; what only costs
speed, or was never tried, is a warning.

examples:
  liger-jit doctor
  liger-jit doctor --json
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import library, tried
from .output import print_json, print_table, size_text

LEAST_FREE_BYTES = 256 << 20
NETWORK = ("nfs", "nfs4", "lustre", "beegfs", "gpfs", "ceph", "cifs", "smb3", "9p", "fuse.sshfs")
FLEETING = {
    "tmpfs": "it is memory: gone after a reboot, and it takes from what programs have",
    "ramfs": "it is memory: gone after a reboot, and it takes from what programs have",
    "overlay": "it is a container's own layer: gone with the container",
}


@dataclass
class Finding:
    check: str
    state: str  # ok, warning or broken
    found: str
    advice: str = ""


def add(parser: argparse.ArgumentParser) -> None:
    pass


def run(asked: argparse.Namespace) -> int:
    about = library.ask("_environment")
    findings = [
        *_compilers(about),
        *_devices(about),
        *_libraries(),
        *_folder(about["cache"]),
        *_layers(about["cache"]),
        *_remote(library.ask("_remote")),
    ]
    broken = any(finding.state == "broken" for finding in findings)
    if asked.json:
        print_json({"broken": broken, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [[one.check, one.state, one.found, one.advice] for one in findings]
        print_table("doctor", ["check", "state", "found", "what to do"], rows)
    return 1 if broken else 0


def _compilers(about: dict) -> list[Finding]:
    """A compiler is needed only for devices that are here, and the C++ one for tests on the CPU."""
    needed = {device["backend"] for device in about["devices"] if not device["problem"]}
    findings = []
    for compiler in about["compilers"]:
        check = f"compiler for {compiler['backend']}"
        if compiler["found"]:
            found = f"{compiler['version']}, {compiler['path']}"
            findings.append(Finding(check, "ok", found))
            continue
        if compiler["served"]:
            findings.append(_served(check, compiler))
            continue
        state = "broken" if compiler["backend"] in needed else "warning"
        if compiler["backend"] == "hip" and state == "warning":
            state = "ok"  # most machines have no AMD GPU
        findings.append(Finding(check, state, "not found", compiler["problem"]))
    return findings


def _served(check: str, compiler: dict) -> Finding:
    """Kernels that other machines have made, of whichever build, serve one that has no compiler."""
    builds = [
        f"{one['entries']} for {one['arch']} by {one['compiler']}" for one in compiler["served"]
    ]
    found = f"not found; kernels in the cache serve instead: {', '.join(builds)}"
    advice = f"what is not among them cannot be made: {compiler['problem']}"
    return Finding(check, "warning", found, advice)


def _devices(about: dict) -> list[Finding]:
    findings = []
    seen_by_torch = torch.cuda.device_count()
    gpus = [one for one in about["devices"] if one["backend"] != "cpu" and not one["problem"]]
    if len(gpus) < seen_by_torch:
        why = "; ".join(one["problem"] for one in about["devices"] if one["problem"])
        advice = f"{why}. Look whether `nvidia-smi` works and the driver is not older than torch's"
        found = f"torch sees {seen_by_torch} GPUs, liger_jit {len(gpus)}"
        findings.append(Finding("GPUs", "broken", found, advice))
    elif gpus:
        names = ", ".join(f"{one['name']} ({one['arch']})" for one in gpus)
        findings.append(Finding("GPUs", "ok", names))
    else:
        findings.append(Finding("GPUs", "ok", "none: kernels run on the CPU"))
    return findings


def _libraries() -> list[Finding]:
    """What was loaded, and whether this torch and these transformers were ever tried with it."""
    built, there = library.built_with(), ", ".join(library.bindings())
    found = f"{library.BINDING}, built with torch {built}; there are bindings for torch {there}"
    findings = [
        Finding("library", "ok", found),
        _tried("torch", torch.__version__, tried.TORCH),
        Finding("system", "ok", f"{platform.platform()}, {os.cpu_count()} cores"),
    ]
    try:
        findings.append(_tried("transformers", version("transformers"), tried.TRANSFORMERS))
    except PackageNotFoundError:  # only `patch` needs it
        findings.append(Finding("transformers", "ok", "not installed"))
    return findings


def _tried(package: str, running: str, minors: tuple[str, ...]) -> Finding:
    if library.minor_of(running) in minors:
        return Finding(package, "ok", running)
    advice = f"liger_jit was tried with {package} {', '.join(minors)}: run its tests with this one"
    return Finding(package, "warning", f"{running} was never tried", advice)


def _folder(cache: dict) -> list[Finding]:
    if not cache["folder"]:
        if cache["mode"] == "off" or os.environ.get("LIGER_JIT_CACHE") in ("", "off"):
            variable = "LIGER_JIT_CACHE_MODE" if cache["mode"] == "off" else "LIGER_JIT_CACHE"
            advice = f"unset {variable}, so that a second run compiles nothing"
            return [Finding("cache folder", "warning", "off: memory only", advice)]
        why = cache["why_memory_only"]
        return [Finding("cache folder", "broken", "not used: memory only", why)]
    folder = Path(cache["folder"])
    if cache["mode"] == "readonly" and not folder.exists():
        advice = "unset LIGER_JIT_CACHE_MODE once, so that a run fills it"
        return [Finding("cache folder", "warning", f"{folder} is not there, and readonly", advice)]
    findings = [
        _writable(folder, cache["mode"]),
        _file_system("cache", folder),
        _space(folder, cache),
    ]
    listed = library.ask("_cache", "ls")
    bad = [file for file in listed["files"] if not file["ok"]]
    findings.append(
        Finding(
            "cache entries",
            "warning" if bad else "ok",
            f"{len(listed['files'])} entries, {len(bad)} damaged",
            "liger-jit cache verify --repair" if bad else "",
        )
    )
    return findings


def _writable(folder: Path, mode: str) -> Finding:
    """By writing: permissions alone do not tell of quotas and read-only mounts."""
    status = folder.stat()
    found = f"{folder}, owner {status.st_uid}, mode {status.st_mode & 0o7777:o}"
    if mode == "readonly":
        return Finding("cache folder", "ok", f"{found}, LIGER_JIT_CACHE_MODE=readonly")
    probe = folder / f".tmp-doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as trouble:
        advice = f"make it writable, or set LIGER_JIT_CACHE to a folder that is: {trouble}"
        return Finding("cache folder", "broken", found, advice)
    finally:
        probe.unlink(missing_ok=True)
    return Finding("cache folder", "ok", found)


def _file_system(name: str, path: Path) -> Finding:
    kind = file_system_of(path)
    check = f"file system of the {name}"
    if kind in FLEETING:
        advice = f"{FLEETING[kind]}; for a cache that stays, set LIGER_JIT_CACHE to a disk"
        return Finding(check, "warning", kind, advice)
    if kind in NETWORK:
        advice = (
            "safe with any number of machines; where many start at once, a bundle on a local disk "
            "in LIGER_JIT_CACHE_READONLY spares the server"
        )
        return Finding(check, "ok", f"{kind}, a network's", advice)
    return Finding(check, "ok", kind)


def _space(folder: Path, cache: dict) -> Finding:
    free_bytes = shutil.disk_usage(folder).free
    found = f"{size_text(free_bytes)} free; the cache is kept below "
    found += size_text(cache["most_bytes"]) if cache["most_bytes"] else "no size"
    if free_bytes >= LEAST_FREE_BYTES:
        return Finding("free space", "ok", found)
    advice = "make room, or liger-jit cache prune --max-size 100M"
    return Finding("free space", "warning", found, advice)


def _layers(cache: dict) -> list[Finding]:
    findings = []
    for layer in cache["readonly"]:
        check = f"read-only {layer['kind']}"
        if layer["problem"]:
            found = f"{layer['path']} is not used: {layer['problem']}"
            advice = "mend it, or take it out of LIGER_JIT_CACHE_READONLY"
            findings.append(Finding(check, "broken", found, advice))
        elif not Path(layer["path"]).exists():
            advice = "is it mounted? Else take it out of LIGER_JIT_CACHE_READONLY"
            findings.append(Finding(check, "warning", f"{layer['path']} is not there", advice))
        else:
            findings.append(Finding(check, "ok", layer["path"]))
    return findings


def _remote(answer: dict) -> list[Finding]:
    """`answer`: what the server said to a login, a read and a write."""
    if not answer:
        return []
    address, problem = answer["address"], answer["problem"]
    if not answer["reads"]:
        advice = "is it up, the port open and the password right? Runs go on without it"
        return [Finding("remote cache", "broken", f"{address}: {problem}", advice)]
    if problem:
        found = f"{address} takes no entries: {problem}"
        advice = "give it memory (maxmemory) and this user the right to write; it is still read"
        return [Finding("remote cache", "warning", found, advice)]
    found = f"{address} reads and writes, {answer['read_ms']:.2f} ms a read"
    return [Finding("remote cache", "ok", found)]


def file_system_of(path: Path) -> str:
    """The kind of the mount that a path is on, as Linux names it: ext4, nfs4, tmpfs, overlay."""
    kind, longest = "unknown", -1
    real = Path(os.path.realpath(path))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # 36 35 98:0 /root /mount/point options [fields] - kind source options
        place, _, rest = line.partition(" - ")
        mount = Path(place.split()[4].encode().decode("unicode_escape"))  # blanks are \040
        if real.is_relative_to(mount) and len(mount.parts) >= longest:  # a later one lies on top
            kind, longest = rest.split()[0], len(mount.parts)
    return kind
