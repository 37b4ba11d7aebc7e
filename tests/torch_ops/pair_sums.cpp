// An op that only tests need, with what no op of the product has: an output whose size is reckoned
// from an input's, and an example of more than three sizes. torch sees it as
// liger_jit_test::pair_sums.
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <torch/library.h>

#include <memory>

#include "engine/registry.h"
#include "torch_bindings/composite_call.h"
#include "torch_bindings/kernels.h"

namespace liger::torch_bindings {
namespace {

const Register pair_sums{Op{
    .name = "pair_sums",
    .doc = "the sums of the rows of each half of a batch [2 n, columns], and the two side by side",
    .inputs = {rows("x")},
    .outputs = {{"sums", [](const Call&) { return sized({size_of("x", 0) / 2}); },
                 [](const Call& call) { return call["x"].dtype; }},
                {"both",
                 [](const Call&) {
                   return sized({size_of("x", 0) / 2, size_of("x", -1) * 2 + 1});
                 },
                 [](const Call& call) { return call["x"].dtype; }}},
    .check =
        [](const Call& call) {
          const Tensor& x = call["x"];
          if (x.dims != 2 || x.sizes[0] % 2 != 0)
            call.refuse("x", "has shape " + shape_text(x), "[2 n, columns]");
        },
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"] * e["chosen"], e["size"]}}};
    },
    .sizes = example_sizes({{"chosen", 2, "answers to a question"}}),
    .bench = {{"many", {{"rows", 64}, {"size", 32}, {"chosen", 6}}}},
}};

Tensors halves(const Op& op, c10::ArrayRef<c10::IValue> inputs) {
  const CompositeCall call(op, inputs);
  const at::Tensor x = call.tensor("x");
  const int64_t pairs = x.size(0) / 2;
  const at::Tensor first = x.narrow(0, 0, pairs), second = x.narrow(0, pairs, pairs);
  const at::Tensor sums = at::add(first.sum(1), second.sum(1));
  return {sums, at::cat({first, second, sums.unsqueeze(1)}, 1)};
}
const RegisterComposite composite("pair_sums", halves);

}  // namespace

// Once.
extern "C" __attribute__((visibility("default"))) void register_test_ops() {
  auto& library = *new torch::Library(MAKE_TORCH_LIBRARY(liger_jit_test));  // for good
  const Op& op = op_named("pair_sums");
  library.def(torch::schema(op.schema().c_str()), {at::Tag::pt2_compliant_tag});
  library.impl("pair_sums", c10::DispatchKey::CPU,
               torch::CppFunction::makeFromBoxedFunctor(std::make_unique<BackendKernel>(op)));
  library.impl("pair_sums", c10::DispatchKey::Meta,
               torch::CppFunction::makeFromBoxedFunctor(std::make_unique<MetaKernel>(op)));
}

}  // namespace liger::torch_bindings
