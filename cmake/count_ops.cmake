# Writes a .cpp that defines liger::declared_ops (engine/registry.h).
# Called with FILES (comma separated) and OUTPUT.

set(count 0)
string(REPLACE "," ";" FILES "${FILES}")
foreach(file IN LISTS FILES)
  file(STRINGS "${file}" declarations REGEX "^const Register ")
  list(LENGTH declarations here)
  math(EXPR count "${count} + ${here}")
endforeach()

file(WRITE "${OUTPUT}" "// Made by the build from ops/.
#include \"engine/registry.h\"

namespace liger {

const int declared_ops = ${count};

}  // namespace liger
")
