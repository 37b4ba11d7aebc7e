# Writes a .cpp that defines liger::embedded_templates() (runtime/compile/unit.h).
# Called with FOLDER, NAMES (comma separated, relative to FOLDER) and OUTPUT.

# Compilers need not take a literal of more than 65536 bytes, so a long text becomes several.
set(piece_bytes 16000)

function(literal_of text result)
  string(LENGTH "${text}" left)
  set(at 0)
  set(pieces "R\"liger_text()liger_text\"")
  while(at LESS left)
    string(SUBSTRING "${text}" ${at} ${piece_bytes} piece)
    string(APPEND pieces "\n     R\"liger_text(${piece})liger_text\"")
    math(EXPR at "${at} + ${piece_bytes}")
  endwhile()
  set(${result} "${pieces}" PARENT_SCOPE)
endfunction()

set(entries "")
string(REPLACE "," ";" NAMES "${NAMES}")
foreach(name IN LISTS NAMES)
  file(READ "${FOLDER}/${name}" text)
  literal_of("${text}" literal)
  string(APPEND entries "    {\"${name}\",\n     ${literal}},\n")
endforeach()

file(WRITE "${OUTPUT}" "// Made by the build from templates/.
#include \"runtime/compile/unit.h\"

namespace liger {

const std::vector<EmbeddedFile>& embedded_templates() {
  static const std::vector<EmbeddedFile>& files = *new std::vector<EmbeddedFile>{
${entries}  };
  return files;
}

}  // namespace liger
")
