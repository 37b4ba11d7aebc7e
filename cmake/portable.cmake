# LIGER_JIT_PORTABLE: what is built here also runs where glibc is 2.28 and libstdc++ is that of GCC 8,
# the floor of manylinux_2_28, though this system is newer.
#
# Targets link against libraries that have only the old symbols of the system's own (old_symbols.py).
# What libstdc++ has learned since then is taken from libstdc++.a and stays inside the target. Not all
# of libstdc++ is: exceptions, strings and streams cross to torch, so both must use one, the system's.
# So the archive is without its parts that keep something for the whole process. What else today's
# headers call is in old_system.cpp. Anything that remains is an undefined symbol of the linker.

option(LIGER_JIT_PORTABLE "Build for manylinux_2_28, also on a newer system" OFF)

# To be called first for a shared library or executable: no library may come before these.
function(make_portable target)
  if(NOT LIGER_JIT_PORTABLE)
    return()
  endif()
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:liger_old_system>)
  # Not a link directory of CMake, which would be in the run path too. The system's other libraries may
  # need what is new; old systems have threads and dlopen in libraries of their own.
  target_link_options(${target} BEFORE PRIVATE -L${LIGER_JIT_OLD_LIBRARIES} -Wl,--no-undefined
                      -Wl,--allow-shlib-undefined -Wl,--exclude-libs,ALL
                      "LINKER:--push-state,--no-as-needed,-l:libpthread.so.0,-l:libdl.so.2,--pop-state")
  target_link_libraries(${target} PRIVATE stdc++ m)
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${LIGER_JIT_OLD_LIBRARIES}/libc.so.6
               ${LIGER_JIT_OLD_LIBRARIES}/libm.so.6 ${LIGER_JIT_OLD_LIBRARIES}/libstdc++.so.6)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL EXECUTABLE)
    # Today's start-up code leaves it to the C library to run constructors, which an old one does not.
    target_link_options(${target} PRIVATE -Wl,--wrap=__libc_start_main)
  endif()
endfunction()

function(make_old_libraries folder)
  if(NOT CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64 OR NOT CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    message(FATAL_ERROR "LIGER_JIT_PORTABLE needs GCC on x86_64, and this is "
            "${CMAKE_CXX_COMPILER_ID} on ${CMAKE_SYSTEM_PROCESSOR}")
  endif()
  foreach(name IN ITEMS libc.so.6 libm.so.6 libstdc++.so.6 libstdc++.a libc_nonshared.a)
    execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=${name}
                    OUTPUT_VARIABLE path OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT IS_ABSOLUTE ${path})
      message(FATAL_ERROR "${CMAKE_CXX_COMPILER} has no ${name}, which LIGER_JIT_PORTABLE needs")
    endif()
    set(${name} ${path})
  endforeach()
  set(script ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/old_symbols.py)
  foreach(name IN ITEMS libc.so.6 libm.so.6 libstdc++.so.6)
    set(made ${folder}/${name})
    if(${script} IS_NEWER_THAN ${made} OR ${${name}} IS_NEWER_THAN ${made})
      execute_process(COMMAND ${Python_EXECUTABLE} ${script} ${${name}} ${made} ${CMAKE_CXX_COMPILER}
                              --most GLIBC_2.28 --most GLIBCXX_3.4.24 --most CXXABI_1.3.11
                      COMMAND_ERROR_IS_FATAL ANY)
    endif()
  endforeach()
  execute_process(COMMAND ${CMAKE_AR} t ${libstdc++.a} OUTPUT_VARIABLE parts COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "(eh_|new_|globals_|ios_init|locale_init)[^\n]*[.]o" of_process "${parts}")
  list(FILTER of_process EXCLUDE REGEX "^eh_ptr[.]")
  file(COPY_FILE ${libstdc++.a} ${folder}/libstdc++.a)
  execute_process(COMMAND ${CMAKE_AR} d ${folder}/libstdc++.a ${of_process}
                  COMMAND_ERROR_IS_FATAL ANY)
  # As the system's own scripts: some functions are in an archive only.
  file(WRITE ${folder}/libc.so "GROUP(\"${folder}/libc.so.6\" \"${libc_nonshared.a}\" "
       "AS_NEEDED(-l:ld-linux-x86-64.so.2))\n")
  file(WRITE ${folder}/libm.so "INPUT(\"${folder}/libm.so.6\")\n")
  file(WRITE ${folder}/libstdc++.so
       "INPUT(\"${folder}/libstdc++.so.6\" \"${folder}/libstdc++.a\")\n")
endfunction()

if(LIGER_JIT_PORTABLE)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  set(LIGER_JIT_OLD_LIBRARIES ${CMAKE_CURRENT_BINARY_DIR}/old_libraries)
  make_old_libraries(${LIGER_JIT_OLD_LIBRARIES})
  add_library(liger_old_system OBJECT ${CMAKE_CURRENT_LIST_DIR}/old_system.cpp)
endif()
