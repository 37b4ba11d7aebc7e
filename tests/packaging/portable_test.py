"""What is linked by cmake/portable.cmake: asks for an old system only, and works on this one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CMAKE = Path(sys.executable).parent / "cmake"

LISTS = f"""
cmake_minimum_required(VERSION 3.25)
project(portable LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(Python_EXECUTABLE {sys.executable})
list(APPEND CMAKE_MODULE_PATH {ROOT}/cmake)
include(portable)
foreach(name IN ITEMS works old_clock too_new)
  add_executable(${{name}} ${{name}}.cpp)
  make_portable(${{name}})
endforeach()
"""

# Of each kind one: constructors, a copied variable with two names, old defaults, what only the
# archive has, what only old_system.cpp has, an exception of the archive caught as the system's, and
# one with two owners.
WORKS = r"""
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>
#include <charconv>
#include <cmath>
#include <exception>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <thread>
struct Early { Early() { value = 42; } static inline int value = 0; } early;
struct Counted {
  Counted() { ++alive; }
  Counted(const Counted&) { ++alive; }
  ~Counted() { --alive; }
  static inline int alive = 0;
};
int main(int, char** words) {
  double number = 0;
  const std::string text = "2.5";
  std::from_chars(text.data(), text.data() + text.size(), number);
  std::thread([&] { number += std::log2(8.0); }).join();
  std::ostringstream told;
  told << Early::value << ' ' << number << ' ' << (environ && environ[0]) << ' ';
  struct stat file;
  told << (stat(words[0], &file) == 0 && file.st_size > 0) << ' ';
  told << (std::filesystem::file_size(words[0]) == static_cast<size_t>(file.st_size)) << ' ';
  told << (gettid() == getpid()) << ' ' << (dlopen("libm.so.6", RTLD_NOW) != nullptr) << ' ';
  try {
    told << std::filesystem::file_size("/absent");
  } catch (const std::system_error& error) {
    told << error.code().value() << ' ';
  }
  std::exception_ptr first = std::make_exception_ptr(Counted());
  std::exception_ptr second = first;
  first = nullptr;
  try {
    std::rethrow_exception(second);
  } catch (const Counted&) {
    told << Counted::alive;
  }
  second = nullptr;
  told << Counted::alive;
  std::cout << told.str() << '\n';
}
"""

# Without pthread_cond_clockwait the deadline moves to another clock.
OLD_CLOCK = r"""
#include <dlfcn.h>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <thread>
extern "C" void* dlsym(void*, const char*) noexcept { return nullptr; }
int main() {
  using std::chrono::milliseconds;
  std::mutex mutex;
  std::condition_variable condition;
  std::unique_lock lock(mutex);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 7; ++i) condition.wait_for(lock, milliseconds(50));
  const auto waited = std::chrono::steady_clock::now() - start;
  bool given = false;
  std::thread giver([&] {
    const std::lock_guard inner(mutex);
    given = true;
    condition.notify_one();
  });
  const bool seen = condition.wait_for(lock, std::chrono::hours(1), [&] { return given; });
  giver.join();
  std::cout << (waited >= milliseconds(350)) << (waited < milliseconds(5000)) << seen << '\n';
}
"""

TOO_NEW = r"""
#include <unistd.h>
int main() { return close_range(100, 200, 0); }
"""


def build(folder, target):
    command = [str(CMAKE), "--build", str(folder / "build"), "--target", target]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portable")
    files = {"CMakeLists.txt": LISTS, "works.cpp": WORKS, "old_clock.cpp": OLD_CLOCK}
    for name, text in {**files, "too_new.cpp": TOO_NEW}.items():
        (folder / name).write_text(text)
    command = [CMAKE, "-G", "Ninja", "-S", folder, "-B", folder / "build"]
    command += ["-DLIGER_JIT_PORTABLE=ON", f"-DCMAKE_MAKE_PROGRAM={CMAKE.parent / 'ninja'}"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if "LIGER_JIT_PORTABLE needs" in done.stderr:
        pytest.skip(done.stderr[-300:])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def run(folder, target):
    done = build(folder, target)
    assert done.returncode == 0, done.stdout[-3000:]
    program = folder / "build" / target
    told = subprocess.run(
        ["readelf", "--wide", "--version-info", str(program)], capture_output=True, text=True
    ).stdout
    asked = {
        (family, tuple(map(int, number.split("."))))
        for family, number in re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI)_([\d.]+) ", told)
    }
    newest = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}
    assert asked and all(number <= newest[family] for family, number in asked), asked
    return subprocess.run([program], capture_output=True, text=True).stdout


def test_a_program_works_with_what_an_old_system_has(folder):
    assert run(folder, "works") == "42 5.5 1 1 1 1 1 2 10\n"


def test_a_wait_on_another_clock_takes_its_time(folder):
    assert run(folder, "old_clock") == "111\n"


def test_what_no_old_system_has_is_refused_by_name(folder):
    done = build(folder, "too_new")
    assert done.returncode != 0
    assert "undefined reference to `close_range'" in done.stdout + done.stderr
