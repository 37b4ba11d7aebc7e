"""`make fuzz`: feeds random bytes to each parser of tests/fuzz for a while. Needs clang.

What a run learned stays in build/fuzz/corpus, and the next one goes on from there.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "fuzz"
BIN = Path(sys.executable).parent


def missing() -> str:
    """Why nothing can be fuzzed here; empty if it can."""
    if not shutil.which("clang++"):
        return "clang++ is not on PATH"
    asked = ["clang++", "-print-file-name=libclang_rt.fuzzer-x86_64.a", "-print-runtime-dir"]
    folder = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()[-1]
    if not list(Path(folder).glob("libclang_rt.fuzzer*")):
        return f"clang has no libFuzzer in {folder}; on Debian: apt-get install libclang-rt-14-dev"
    return ""


def build() -> list[Path]:
    configure = [BIN / "cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja"]
    configure += ["-DLIGER_JIT_FUZZ=ON", "-DCMAKE_CXX_COMPILER=clang++"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([BIN / "cmake", "--build", BUILD, "--target", "fuzzers"], check=True)
    return sorted(path for path in BUILD.glob("*_fuzzer") if os.access(path, os.X_OK))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="for each fuzzer")
    asked = parser.parse_args()
    if problem := missing():
        print(f"fuzz: {problem}", file=sys.stderr)
        return 2
    for fuzzer in build():
        corpus = BUILD / "corpus" / fuzzer.name
        corpus.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={asked.seconds}", "-max_len=4096", "-print_final_stats=1"]
        done = subprocess.run([fuzzer, *options, f"-artifact_prefix={BUILD}/", corpus])
        if done.returncode != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
