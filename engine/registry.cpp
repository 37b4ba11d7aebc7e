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
  if (found == declared_ops) return {};
  return fmt::format(
      "{} ops are declared in ops/, each as `const Register name{{...}}`, and {} are in the "
      "library: it was linked without some of its object files, or of an older build",
      declared_ops, found);
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
