# Writes the linker's version script of the core: what is exported, and of which build it is.
# Called with FILES (comma separated), BUILD (compiler and flags) and OUTPUT.
#
# All of namespace liger is seen by the bindings; fmt, hiredis, zstd and the rest stay local, so those
# that torch or the process have are never met. The name of the version is made of all that the core is
# made of: the loader refuses a binding that was linked with another core before any code of it runs.

set(text "${BUILD}")
string(REPLACE "," ";" FILES "${FILES}")
foreach(file IN LISTS FILES)
  file(SHA256 "${file}" hash)
  string(APPEND text "\n${hash}")
endforeach()
string(SHA256 build "${text}")
string(SUBSTRING ${build} 0 16 build)

# Names in namespace liger as they are mangled: functions and variables, with a const method, vtables,
# type information, and the thunks of virtual methods.
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT "LIGER_JIT_${build} {
  global: _ZN5liger*; _ZNK5liger*; _ZT?N5liger*; _ZTh*_N5liger*; _ZTv*_N5liger*;
  local: *;
};
")
