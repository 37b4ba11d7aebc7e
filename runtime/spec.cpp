#include "runtime/spec.h"

#include "base/text.h"

namespace liger {
namespace {

struct Literal {
  std::string operator()(Dtype dtype) const { return fmt::format("Dtype::{}", name_of(dtype)); }
  std::string operator()(bool flag) const { return flag ? "true" : "false"; }
  std::string operator()(int64_t number) const { return fmt::format("{}", number); }
  std::string operator()(const Spec& spec) const { return "{" + initialiser(spec) + "}"; }
};

}  // namespace

std::string initialiser(const Spec& spec) {
  std::string text;
  for (const SpecField& field : spec) {
    if (!text.empty()) text += ", ";
    text += fmt::format(".{} = {}", field.name, std::visit(Literal{}, field.value));
  }
  return text;
}

}  // namespace liger
