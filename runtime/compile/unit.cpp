#include "runtime/compile/unit.h"

#include <map>
#include <mutex>
#include <set>

#include "base/counters.h"
#include "base/error.h"
#include "base/process_state.h"
#include "base/text.h"

namespace liger {
namespace {

std::string_view trimmed(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

// The name in `#include "name"`, else empty. `#include <name>` is left to the compiler.
std::string_view included_name(std::string_view line) {
  line = trimmed(line);
  if (!line.starts_with('#')) return {};
  line = trimmed(line.substr(1));
  if (!line.starts_with("include")) return {};
  line = trimmed(line.substr(7));
  if (!line.starts_with('"')) return {};
  return line.substr(1, line.find('"', 1) - 1);
}

bool is_pragma_once(std::string_view line) {
  line = trimmed(line);
  return line.starts_with("#pragma") && trimmed(line.substr(7)).starts_with("once");
}

const EmbeddedFile* embedded_file(std::string_view name) {
  for (const EmbeddedFile& file : embedded_templates())
    if (file.name == name) return &file;
  return nullptr;
}

// Named from the root of templates/, or from the folder of the file that includes it.
const EmbeddedFile& resolve(std::string_view name, std::string_view including_file) {
  if (const EmbeddedFile* file = embedded_file(name)) return *file;
  const size_t slash = including_file.rfind('/');
  if (slash != std::string_view::npos) {
    const std::string sibling = fmt::format("{}/{}", including_file.substr(0, slash), name);
    if (const EmbeddedFile* file = embedded_file(sibling)) return *file;
  }
  std::vector<std::string_view> known;
  for (const EmbeddedFile& file : embedded_templates()) known.push_back(file.name);
  throw Error(
      ErrorKind::invalid_argument,
      fmt::format("template file \"{}\" (included by {}) is not in the library; it holds {}", name,
                  including_file, fmt::join(known, ", ")));
}

class Expansion {
 public:
  std::string result;

  void append(std::string_view text, std::string_view file, std::string_view mark) {
    result += fmt::format("#line 1 \"{}\"\n", mark);
    int line_number = 0;
    while (!text.empty()) {
      const size_t end = text.find('\n');
      append_line(text.substr(0, end), ++line_number, file, mark);
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
  }

 private:
  void append_line(std::string_view line, int line_number, std::string_view file,
                   std::string_view mark) {
    const std::string_view name = included_name(line);
    if (name.empty()) {
      if (!is_pragma_once(line)) result += line;
      result += '\n';
      return;
    }
    const EmbeddedFile& included = resolve(name, file);
    if (!done_.insert(included.name).second) {
      result += '\n';
      return;
    }
    append(included.text, included.name, fmt::format("templates/{}", included.name));
    result += fmt::format("#line {} \"{}\"\n", line_number + 1, mark);
  }

  std::set<std::string_view> done_;
};

struct FirstLines {
  std::mutex mutex;
  std::map<std::string, std::string, std::less<>> by_template;
};

// A unit's first line with the template file in its place: the same for all units of that file, and
// long, so it is made once.
const std::string& first_line_expanded(std::string_view template_file) {
  FirstLines& lines = ProcessState<FirstLines>::get();
  const std::lock_guard lock(lines.mutex);
  const auto found = lines.by_template.find(template_file);
  if (found != lines.by_template.end()) return found->second;
  std::string expanded = expand_includes(fmt::format("#include \"{}\"\n", template_file));
  return lines.by_template.emplace(template_file, std::move(expanded)).first->second;
}

}  // namespace

std::string layout_of(std::string_view kernel, const std::vector<Member>& members) {
  std::string lines;
  int offset = 0;
  for (const Member& member : members) {
    lines += fmt::format("LIGER_MEMBER({}, spec, {}, {}, {})\n", kernel, member.name, offset,
                         member.bytes);
    offset += member.bytes;
  }
  return lines + fmt::format("LIGER_SIZE({}, spec, {})\n", kernel, offset);
}

Unit make_unit(const KernelTemplate& made_from, const Spec& spec) {
  const auto [file, kernel, layout] = made_from;
  resolve(file, "unit");
  Unit unit;
  unit.kernel = kernel;
  unit.spec = initialiser(spec);
  const std::string fields = replace_all(unit.spec, ", .", ",\n    .");
  const std::string lines = fmt::format(
      "using namespace liger;\n"
      "constexpr {}Spec spec = {{\n    {}}};\n"
      "{}LIGER_ENTRY({}, spec)\n",
      kernel, fields, layout, kernel);
  unit.text = fmt::format("#include \"{}\"\n{}", file, lines);
  unit.expanded = first_line_expanded(file) + lines;
  counters().units_expanded += 1;
  return unit;
}

std::string entry_symbol(std::string_view kernel) { return fmt::format("liger_{}", kernel); }

std::string expand_includes(std::string_view text) {
  Expansion expansion;
  expansion.append(text, "unit", "unit");
  return std::move(expansion.result);
}

}  // namespace liger
