# LIGER_JIT_TORCHES: for which torches to make a binding, as the folders that hold a package `torch`.
# Empty: the one that is installed. Not torch's own CMake package: it would link CUDA and ask for
# its toolkit.
set(LIGER_JIT_TORCHES "" CACHE STRING "Folders that hold a torch each; empty: the installed one")

if(NOT LIGER_JIT_TORCHES)
  if(NOT Python_EXECUTABLE AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/.venv/bin/python)
    set(Python_EXECUTABLE ${CMAKE_CURRENT_SOURCE_DIR}/.venv/bin/python)
  endif()
  set(Python_FIND_VIRTUALENV FIRST)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cmake/find_torch.py
    OUTPUT_VARIABLE installed_torch OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE looked_at RESULT_VARIABLE torch_missing)
  if(torch_missing)
    message(FATAL_ERROR "No torch is installed where ${Python_EXECUTABLE} looks:\n${looked_at}\n"
            "liger_jit is built for the torch that it will run with. Install that first (pip install "
            "torch) and then liger_jit, or name the folder that holds it: pip install . "
            "-C cmake.define.LIGER_JIT_TORCHES=…/site-packages")
  endif()
endif()

# What a torch is: sets torch_folder, torch_version and torch_minor (2.11).
macro(read_torch place)
  set(torch_folder ${place}/torch)
  if(NOT EXISTS ${torch_folder}/version.py)
    message(FATAL_ERROR "${place} holds no torch (LIGER_JIT_TORCHES)")
  endif()
  file(STRINGS ${torch_folder}/version.py version_line REGEX "^__version__ = ")
  string(REGEX MATCH "[0-9][^'\"]*" torch_version "${version_line}")
  string(REGEX MATCH "^[0-9]+[.][0-9]+" torch_minor "${torch_version}")
  if(torch_minor VERSION_LESS 2.11)
    message(FATAL_ERROR "torch ${torch_version} in ${torch_folder} is too old; "
            "liger_jit needs torch 2.11 or newer")
  endif()
  if(torch_minor VERSION_GREATER 2.15)
    message(WARNING "torch ${torch_version} is newer than what liger_jit was tried with, 2.11 to 2.15")
  endif()
  message(STATUS "torch ${torch_version} in ${torch_folder}")
endmacro()

# A binding for each. Its sources see torch's headers and so torch's fmt, never Debian's. Everything in
# it stays hidden but its entry: what it shares with the core is the core's.
function(add_torch_binding place)
  read_torch(${place})
  set(binding liger_jit_torch${torch_minor})
  add_library(${binding} SHARED ${binding_sources})
  make_portable(${binding})
  set_target_properties(${binding} PROPERTIES BUILD_WITH_INSTALL_RPATH ON
                        INSTALL_RPATH "$ORIGIN:$ORIGIN/../../torch/lib")
  target_include_directories(${binding} SYSTEM PRIVATE ${torch_folder}/include)
  target_compile_definitions(${binding} PRIVATE AT_PER_OPERATOR_HEADERS FMT_HEADER_ONLY)
  target_link_directories(${binding} PRIVATE ${torch_folder}/lib)
  target_link_libraries(${binding} PRIVATE liger_options liger_jit torch_cpu c10)
  target_link_options(${binding} PRIVATE -Wl,--build-id=sha1)
  set(native_targets ${native_targets} ${binding} PARENT_SCOPE)
  if(LIGER_JIT_TESTS AND NOT LIGER_JIT_SANITIZE)
    add_test_ops(${binding} ${torch_minor} ${torch_folder})
  endif()
endfunction()

# Ops that only tests need, with the binding's own objects: what is registered is what a product's
# op is.
function(add_test_ops binding torch_minor torch_folder)
  file(GLOB test_ops CONFIGURE_DEPENDS tests/torch_ops/*.cpp)
  set(library test_ops_torch${torch_minor})
  add_library(${library} SHARED ${test_ops} $<TARGET_OBJECTS:${binding}>)
  make_portable(${library})
  target_include_directories(${library} SYSTEM PRIVATE ${torch_folder}/include)
  target_compile_definitions(${library} PRIVATE AT_PER_OPERATOR_HEADERS)
  target_link_directories(${library} PRIVATE ${torch_folder}/lib)
  target_link_libraries(${library} PRIVATE liger_options liger_jit torch_cpu c10)
endfunction()
