# Where the torch is that Python would import: LIGER_JIT_TORCH_FOLDER, _VERSION and _CXX11_ABI.
# Not torch's own CMake package: it would link CUDA and ask for its toolkit.

if(NOT Python_EXECUTABLE AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/.venv/bin/python)
  set(Python_EXECUTABLE ${CMAKE_CURRENT_SOURCE_DIR}/.venv/bin/python)
endif()
set(Python_FIND_VIRTUALENV FIRST)
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)

# Looked up, not imported: an import costs seconds.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE LIGER_JIT_TORCH_FOLDER OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no torch. Install it there (pip install "
          "torch==2.11.0), or name another Python with -DPython_EXECUTABLE=…")
endif()

file(STRINGS ${LIGER_JIT_TORCH_FOLDER}/version.py version_line REGEX "^__version__ = ")
string(REGEX MATCH "[0-9][^'\"]*" LIGER_JIT_TORCH_VERSION "${version_line}")
if(LIGER_JIT_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${LIGER_JIT_TORCH_VERSION} in ${LIGER_JIT_TORCH_FOLDER} is too old; "
          "liger_jit is built with torch 2.11")
endif()

set(LIGER_JIT_TORCH_CXX11_ABI 1)
file(STRINGS ${LIGER_JIT_TORCH_FOLDER}/share/cmake/Torch/TorchConfig.cmake abi_line
     REGEX "_GLIBCXX_USE_CXX11_ABI=0" LIMIT_COUNT 1)
if(abi_line)
  set(LIGER_JIT_TORCH_CXX11_ABI 0)
endif()
message(STATUS "torch ${LIGER_JIT_TORCH_VERSION} in ${LIGER_JIT_TORCH_FOLDER}")
