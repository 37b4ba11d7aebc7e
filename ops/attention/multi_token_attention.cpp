#include "base/text.h"
#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

std::vector<Input> options() {
  return {integer("stride", 1), integer("padding", 0), integer("dilation", 1), integer("groups", 1),
          flag("sparse")};
}

// Columns, and rows, of the convolution of the input's last size.
Size convolved(const Call& call) {
  const Size reach = Size(call.integer("dilation")) * (size_of("weight", 3) - 1);
  return (size_of("scores", 3) + 2 * call.integer("padding") - reach - 1) /
             Size(call.integer("stride")) +
         1;
}

// `squares` are the scores, or what was made of them.
void check(const Call& call, std::string_view squares) {
  const Tensor& scores = call[squares];
  const Tensor& weight = call["weight"];
  require_dims(call, squares, 4, "[batch, channels in, N, N]");
  require_dims(call, "weight", 4, "[channels out, channels in / groups, K, K]");
  require_same_dtype(call, squares, "weight");
  require_same_dtype(call, squares, "bias");
  if (scores.sizes[2] != scores.sizes[3])
    call.refuse(squares, "has shape " + shape_text(scores), "[batch, channels in, N, N]");
  if (weight.sizes[2] != weight.sizes[3])
    call.refuse("weight", "has shape " + shape_text(weight),
                "[channels out, channels in / groups, K, K]");
  for (const char* const name : {"stride", "dilation", "groups"})
    if (call.integer(name) < 1)
      call.refuse(name, fmt::format("is {}", call.integer(name)), "1 or more");
  if (call.integer("padding") < 0)
    call.refuse("padding", fmt::format("is {}", call.integer("padding")), "0 or more");
  const int64_t groups = call.integer("groups");
  if (scores.sizes[1] % groups != 0 || weight.sizes[0] % groups != 0)
    call.refuse("groups", fmt::format("is {}", groups),
                fmt::format("a divisor of the channels in, {}, and out, {}", scores.sizes[1],
                            weight.sizes[0]));
  if (weight.sizes[1] != scores.sizes[1] / groups)
    call.refuse("weight", "has shape " + shape_text(weight),
                fmt::format("{} channels in for each group", scores.sizes[1] / groups));
  if (call.has("bias") && (call["bias"].dims != 1 || call["bias"].sizes[0] != weight.sizes[0]))
    call.refuse("bias", "has shape " + shape_text(call["bias"]),
                fmt::format("[{}], one for each channel out", weight.sizes[0]));
  const int64_t reach = call.integer("dilation") * (weight.sizes[3] - 1) + 1;
  if (reach > scores.sizes[3] + 2 * call.integer("padding"))
    call.refuse("weight", fmt::format("reaches over {} columns", reach),
                fmt::format("at most the {} of the padded scores",
                            scores.sizes[3] + 2 * call.integer("padding")));
}

std::vector<Sample> samples(const Extent& e, const char* squares) {
  return {{.input = squares, .shape = {e["batch"], e["inner"], e["size"], e["size"]}},
          {.input = "weight", .shape = {e["inner"], e["inner"], 3, 3}},
          {.input = "bias", .shape = {e["inner"]}}};
}

std::vector<ExampleSize> sizes() { return example_sizes({{"batch", 1, "sequences"}}); }

Op forward_op() {
  Op op;
  op.name = "multi_token_attention";
  op.doc =
      "conv2d(softmax(scores)) of causal attention scores: neither looks beyond the diagonal, "
      "nor does the result";
  op.inputs = {dense("scores"), dense("weight"), optional(dense("bias"))};
  for (Input& input : options()) op.inputs.push_back(std::move(input));
  op.outputs = {{"out",
                 [](const Call& call) {
                   return sized({size_of("scores", 0), size_of("weight", 0), convolved(call),
                                 convolved(call)});
                 },
                 [](const Call& call) { return call["scores"].dtype; }},
                {"probabilities", [](const Call&) { return like("scores"); },
                 [](const Call& call) { return call["scores"].dtype; }, false}};
  op.check = [](const Call& call) { check(call, "scores"); };
  op.gradient = {.backward = "multi_token_attention_backward",
                 .saved = {"probabilities", "weight", "bias"},
                 .of = {{"scores", "dscores"}, {"weight", "dweight"}, {"bias", "dbias"}}};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"scores", "weight", "bias"};
  op.example = [](const Extent& e) { return samples(e, "scores"); };
  op.bench = {{"kernel-3", {{"batch", 2}, {"inner", 16}, {"size", 2048}}}};
  op.sizes = sizes();
  return op;
}

Op backward_op() {
  Op op;
  op.name = "multi_token_attention_backward";
  op.doc = "gradients of multi_token_attention, of those that are wanted";
  op.internal = true;
  op.inputs = {dense("dout"), dense("probabilities"), dense("weight"), optional(dense("bias"))};
  for (Input& input : options()) op.inputs.push_back(std::move(input));
  op.inputs.push_back(mask("output_mask", 3));
  op.outputs = {gradient_output("dscores", "probabilities", "probabilities", 0),
                gradient_output("dweight", "weight", "probabilities", 1),
                gradient_output("dbias", "bias", "probabilities", 2)};
  op.check = [](const Call& call) { check(call, "probabilities"); };
  op.example = [](const Extent& e) {
    std::vector<Sample> list = {
        {.input = "dout", .shape = {e["batch"], e["inner"], e["size"] - 2, e["size"] - 2}}};
    for (Sample& sample : samples(e, "probabilities")) list.push_back(std::move(sample));
    for (const char* const name : {"stride", "dilation", "groups"})
      list.push_back({.input = name, .value = 1});
    list.push_back({.input = "padding", .value = 0});
    list.push_back({.input = "sparse", .value = 0});
    list.push_back({.input = "output_mask", .value = 7});
    return list;
  };
  op.sizes = sizes();
  return op;
}

const Register forward{forward_op()};
const Register backward{backward_op()};

}  // namespace
}  // namespace liger
