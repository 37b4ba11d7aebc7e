#include "ops/attention/causal.h"

#include "base/text.h"
#include "ops/row_knobs.h"

namespace liger {

KernelOf causal_kernel(std::string name, std::vector<Read> read, std::string made,
                       std::vector<Argument> others) {
  const std::string sized_by = read.front().tensor;
  const int arrays = made.empty() ? 0 : static_cast<int>(read.size());
  std::vector<Argument> arguments;
  for (const Read& one : read) arguments.emplace_back(one.member, one.tensor);
  if (!made.empty()) arguments.emplace_back(read.size() > 1 ? "dx" : "y", made);
  arguments.emplace_back("rows", sized_by + ".rows");
  for (const Read& one : read)
    arguments.emplace_back(one.member + "_stride", one.tensor + ".stride");
  for (Argument& other : others) arguments.push_back(std::move(other));
  const auto kept = [sized_by, arrays](const Call& call) {
    return arrays > 0 && holds(call, sized_by, arrays);
  };
  return {
      .name = std::move(name),
      .source = "attention/causal.h",
      .spec = [sized_by, kept](const Call& call) -> Spec {
        return {{"x", call[sized_by].dtype},
                {"width", call[sized_by].last_size()},
                {"align_bytes", int64_t{call.align_bytes()}},
                {"resident", kept(call)}};
      },
      .candidates =
          [sized_by, arrays, kept](const Call& call) {
            return row_candidates(call, call[sized_by].last_size(), kept(call) ? arrays : 0);
          },
      .blocks = [sized_by](const Call& call,
                           const Knobs& knobs) { return row_blocks(call[sized_by].rows(), knobs); },
      .arguments = std::move(arguments)};
}

void require_square(const Call& call, std::string_view tensor) {
  const Tensor& x = call[tensor];
  if (x.dims >= 2 && x.sizes[x.dims - 1] == x.sizes[x.dims - 2]) return;
  call.refuse(tensor, "has shape " + shape_text(x), "[..., N, N]");
}

Output causal_output(std::string name, std::string input) {
  return {std::move(name), [input](const Call&) { return like(input); },
          [input](const Call& call) { return call[input].dtype; }};
}

std::vector<Sample> causal_samples(const Extent& e, std::vector<const char*> names) {
  std::vector<Sample> list;
  for (const char* const name : names)
    list.push_back({.input = name, .shape = {e["rows"], e["size"], e["size"]}});
  return list;
}

}  // namespace liger
