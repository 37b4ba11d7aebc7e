#include "runtime/compile/spec.h"

#include "base/text.h"

namespace liger {
namespace {

struct Literal {
  std::string operator()(Dtype dtype) const { return fmt::format("Dtype::{}", name_of(dtype)); }
  std::string operator()(bool flag) const { return flag ? "true" : "false"; }
  std::string operator()(int64_t number) const { return fmt::format("{}", number); }
  std::string operator()(const Spec& spec) const { return "{" + initialiser(spec) + "}"; }
};

struct AppendValue {
  std::string& key;
  void operator()(Dtype dtype) const { append_bytes(key, static_cast<int64_t>(dtype)); }
  void operator()(bool flag) const { append_bytes(key, int64_t{flag}); }
  void operator()(int64_t number) const { append_bytes(key, number); }
  void operator()(const Spec& spec) const { append_bytes(key, spec); }
};

}  // namespace

void append_bytes(std::string& key, const Spec& spec) {
  append_bytes(key, static_cast<int64_t>(spec.size()));
  for (const SpecField& field : spec) {
    append_bytes(key, field.name);
    key.push_back(static_cast<char>(field.value.index()));
    std::visit(AppendValue{key}, field.value);
  }
}

void append_bytes(std::string& key, std::string_view text) {
  append_bytes(key, static_cast<int64_t>(text.size()));
  key.append(text);
}

void append_bytes(std::string& key, int64_t number) {
  key.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

std::string initialiser(const Spec& spec) {
  std::string text;
  for (const SpecField& field : spec) {
    if (!text.empty()) text += ", ";
    text += fmt::format(".{} = {}", field.name, std::visit(Literal{}, field.value));
  }
  return text;
}

}  // namespace liger
