#include "engine/op.h"

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/text.h"
#include "runtime/device/device.h"

namespace liger {

int Argument::bytes() const {
  if (std::holds_alternative<TensorMapOf>(source)) return sizeof(TensorMap);
  const int words = std::holds_alternative<FaultOf>(source) ? 4 : 1;
  return words * static_cast<int>(sizeof(uint64_t));
}

namespace {

Input tensor_input(std::string name, Layout layout, std::vector<Dtype> dtypes = {}) {
  Input input;
  input.name = std::move(name);
  input.layout = layout;
  input.dtypes = std::move(dtypes);
  return input;
}

Input scalar_input(std::string name, InputKind kind, std::string default_text) {
  Input input;
  input.name = std::move(name);
  input.kind = kind;
  input.layout = Layout::dense;
  input.default_text = std::move(default_text);
  return input;
}

std::string type_text(const Input& input, char alias) {
  switch (input.kind) {
    case InputKind::tensor:
      return input.written ? fmt::format("Tensor({}!)", alias) : "Tensor";
    case InputKind::optional_tensor:
      return input.written ? fmt::format("Tensor({}!)?", alias) : "Tensor?";
    case InputKind::integer:
      return "int";
    case InputKind::real:
      return "float";
    case InputKind::flag:
      return "bool";
    case InputKind::mask:
      return fmt::format("bool[{}]", input.mask_length);
  }
  return "";
}

}  // namespace

Input rows(std::string name) { return tensor_input(std::move(name), Layout::rows); }
Input dense(std::string name, std::vector<Dtype> dtypes) {
  return tensor_input(std::move(name), Layout::dense, std::move(dtypes));
}
Input strided(std::string name) { return tensor_input(std::move(name), Layout::strided); }
Input unread(std::string name) { return tensor_input(std::move(name), Layout::unread); }
Input optional(Input input) {
  input.kind = InputKind::optional_tensor;
  input.default_text = "None";
  return input;
}
Input written(Input input) {
  input.written = true;
  return input;
}
Input of_tokens(Input input, int batch_dim) {
  input.batch_dim = batch_dim;
  return input;
}
Input integer(std::string name, int64_t default_value) {
  return scalar_input(std::move(name), InputKind::integer, fmt::format("{}", default_value));
}
Input real(std::string name, std::string default_text) {
  return scalar_input(std::move(name), InputKind::real, std::move(default_text));
}
Input choice(std::string name, std::vector<std::string> choices, std::string_view default_choice) {
  const auto found = std::find(choices.begin(), choices.end(), default_choice);
  if (found == choices.end()) std::abort();  // a defect of the declaration
  Input input = integer(std::move(name), found - choices.begin());
  input.choices = std::move(choices);
  return input;
}
Input flag(std::string name, bool default_value) {
  return scalar_input(std::move(name), InputKind::flag, default_value ? "True" : "False");
}
Input mask(std::string name, int length) {
  Input input = scalar_input(std::move(name), InputKind::mask, "");
  input.mask_length = length;
  return input;
}

int64_t value_of(const Knobs& knobs, std::string_view name, int64_t otherwise) {
  for (const Knob& knob : knobs) {
    if (knob.name == name) return knob.value;
  }
  return otherwise;
}

int Op::input_index(std::string_view wanted) const {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].name == wanted) return static_cast<int>(i);
  }
  return -1;
}

int Op::output_index(std::string_view wanted) const {
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].name == wanted) return static_cast<int>(i);
  }
  return -1;
}

std::string Op::schema() const {
  // A default counts only where every input after it has one too.
  size_t first_default = inputs.size();
  while (first_default > 0 && !inputs[first_default - 1].default_text.empty()) --first_default;
  std::vector<std::string> left;
  char alias = 'a';
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::string text = type_text(inputs[i], alias);
    if (inputs[i].written) ++alias;
    text += " " + inputs[i].name;
    if (i >= first_default) text += "=" + inputs[i].default_text;
    left.push_back(std::move(text));
  }
  std::vector<std::string> right;
  for (const Output& output : outputs) right.push_back("Tensor " + output.name);
  return fmt::format("{}({}) -> ({})", name, fmt::join(left, ", "), fmt::join(right, ", "));
}

Extent Op::extent(const Extent& asked) const {
  std::vector<NamedSize> all;
  for (const ExampleSize& size : sizes) all.push_back({size.name, size.usual});
  for (const NamedSize& one : asked.sizes()) {
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const NamedSize& known) { return known.name == one.name; });
    if (found == all.end()) {
      std::vector<std::string> names;
      for (const NamedSize& known : all) names.push_back(known.name);
      throw Error(
          ErrorKind::invalid_argument,
          fmt::format("liger_jit::{}: its example has no size '{}' (given: {}); allowed: {}", name,
                      one.name, one.value, fmt::join(names, ", ")));
    }
    found->value = one.value;
  }
  return Extent(std::move(all));
}

}  // namespace liger
