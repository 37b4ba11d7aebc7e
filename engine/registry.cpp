#include "engine/registry.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "engine/arguments.h"

namespace liger {

namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

std::deque<Op>& registry() {
  static auto* ops = new std::deque<Op>();
  return *ops;
}

Register::Register(Op op) {
  for (KernelOf& kernel : op.kernels) kernel.layout = layout_of(kernel);
  registry().push_back(std::move(op));
}

std::string registry_problem() {
  const int found = static_cast<int>(registry().size());
  if (found != declared_ops) {
    return fmt::format(
        "{} ops are declared in ops/, each as `const Register name{{...}}`, and {} are in the "
        "library: it was linked without some of its object files, or of an older build",
        declared_ops, found);
  }
  std::string problem;
  for (const Op& op : registry()) {
    if (problem.empty()) problem = gradient_problem(op);
  }
  return problem;
}

namespace {

// Of the two parts of an op: what each takes and gives, by names.
std::string parts_problem(const Op& op) {
  const Gradient& gradient = op.gradient;
  if (gradient.kept_by.empty() && gradient.finished_by.empty()) return {};
  std::vector<std::string> inputs, kept, others;
  for (const Input& input : op.inputs) inputs.push_back(input.name);
  for (const Output& output : op.outputs) {
    const auto& saved = gradient.saved;
    const bool is_saved = std::find(saved.begin(), saved.end(), output.name) != saved.end();
    if (is_saved && output.differentiable)
      return fmt::format("op {}: its saved output '{}' has a history, so it is no part's", op.name,
                         output.name);
    (is_saved ? kept : others).push_back(output.name);
  }
  const auto problem = [&](const std::string& name, const std::vector<std::string>& taken,
                           const std::vector<std::string>& given) {
    std::vector<std::string> found_taken, found_given;
    if (const Op* part = find_op(name)) {
      for (const Input& input : part->inputs) found_taken.push_back(input.name);
      for (const Output& output : part->outputs) found_given.push_back(output.name);
    }
    if (found_taken == taken && found_given == given) return std::string();
    return fmt::format("op {}: its part '{}' must take ({}) and give ({})", op.name, name,
                       fmt::join(taken, ", "), fmt::join(given, ", "));
  };
  const std::string first = problem(gradient.kept_by, inputs, kept);
  inputs.insert(inputs.end(), kept.begin(), kept.end());
  return first.empty() ? problem(gradient.finished_by, inputs, others) : first;
}

}  // namespace

std::string gradient_problem(const Op& op) {
  const Gradient& gradient = op.gradient;
  const auto wrong = [&](std::string_view field, std::string_view name, std::string_view wanted) {
    return fmt::format("op {}: its gradient's `{}` names '{}', which is no {}", op.name, field,
                       name, wanted);
  };
  for (const std::string& name : gradient.saved) {
    if (op.input_index(name) < 0 && op.output_index(name) < 0)
      return wrong("saved", name, "input or output of the op");
  }
  if (!gradient.needs_grad_flag.empty() && op.input_index(gradient.needs_grad_flag) < 0)
    return wrong("needs_grad_flag", gradient.needs_grad_flag, "input of the op");
  const Op* backward = gradient.backward.empty() ? nullptr : find_op(gradient.backward);
  if (!gradient.backward.empty() && !backward) return wrong("backward", gradient.backward, "op");
  for (const auto& [input, name, through, added_to] : gradient.of) {
    if (op.input_index(input) < 0) return wrong("of", input, "input of the op");
    if (!added_to.empty()) {
      const int output = op.output_index(added_to);
      if (!backward || output < 0 || !op.outputs[output].differentiable)
        return wrong("of", added_to, "differentiable output of an op with a backward");
      if (name.empty()) continue;
    }
    if ((backward ? *backward : op).output_index(name) < 0)
      return wrong("of", name, backward ? "output of the backward" : "output of the op");
    for (const std::string& output : through) {
      if (op.output_index(output) < 0) return wrong("of", output, "output of the op");
    }
  }
  if (const std::string problem = parts_problem(op); !problem.empty()) return problem;
  if (!backward) return {};
  size_t inputs = gradient.saved.size() + 1;  // and the mask of the gradients that are wanted
  for (const Output& output : op.outputs) inputs += output.differentiable ? 1 : 0;
  for (const Input& input : op.inputs)
    inputs += !input.is_tensor() && input.name != gradient.needs_grad_flag ? 1 : 0;
  if (backward->inputs.size() == inputs && backward->inputs.back().kind == InputKind::mask)
    return {};
  return fmt::format(
      "op {}: its backward {} has {} inputs; wanted are {}, in this order: a gradient for each "
      "differentiable output, what is saved, the op's inputs that are no tensors{}, a mask",
      op.name, backward->name, backward->inputs.size(), inputs,
      gradient.needs_grad_flag.empty() ? "" : " but " + gradient.needs_grad_flag);
}

const Op* find_op(std::string_view name) {
  for (const Op& op : registry()) {
    if (op.name == name) return &op;
  }
  return nullptr;
}

const Op& op_named(std::string_view name) {
  if (const Op* op = find_op(name)) return *op;
  const Op* nearest = nullptr;
  size_t distance = ~size_t{0};
  for (const Op& op : registry()) {
    const size_t to_this = edit_distance(name, op.name);
    if (!op.internal && to_this < distance) {
      distance = to_this;
      nearest = &op;
    }
  }
  throw Error(ErrorKind::invalid_argument, fmt::format("there is no op '{}'; the nearest is '{}'",
                                                       name, nearest ? nearest->name : "none"));
}

}  // namespace liger
