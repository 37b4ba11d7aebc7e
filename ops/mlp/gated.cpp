#include "ops/mlp/gated.h"

namespace liger {

namespace {

Spec gated_spec(const Call& call) {
  return {{"x", call["gate"].dtype},
          {"width", call["gate"].last_size()},
          {"align_bytes", int64_t{call.align_bytes()}}};
}

std::vector<Knobs> gated_candidates(const Call& call) {
  return row_candidates(call, call["gate"].last_size(), 0);
}

int64_t gated_blocks(const Call& call, const Knobs& knobs) {
  return row_blocks(call["gate"].rows(), knobs);
}

void check_gated(const Call& call) {
  require_same_shape(call, "gate", "up");
  require_same_dtype(call, "gate", "up");
}

Dtype gate_dtype(const Call& call) { return call["gate"].dtype; }
Shape gate_shape(const Call&) { return like("gate"); }

std::vector<Sample> with_flags(std::vector<Sample> samples, const std::vector<Input>& flags) {
  for (const Input& flag : flags) samples.push_back({.input = flag.name, .value = 0});
  return samples;
}

}  // namespace

Op gated_op(std::string name, std::string doc, std::string source, std::vector<Input> flags,
            const std::vector<GatedKernel>& variants) {
  Op op;
  op.gradient = {.backward = name + "_backward",
                 .saved = {"gate", "up"},
                 .of = {{"gate", "dgate"}, {"up", "dup"}}};
  op.name = std::move(name);
  op.doc = std::move(doc);
  op.inputs = {rows("gate"), rows("up")};
  op.inputs.insert(op.inputs.end(), flags.begin(), flags.end());
  op.outputs = {{"y", gate_shape, gate_dtype}};
  op.sharding = Sharding::elements;
  op.check = check_gated;
  for (const GatedKernel& variant : variants) {
    op.kernels.push_back({.name = variant.kernel + "Forward",
                          .source = source,
                          .when = variant.when,
                          .spec = gated_spec,
                          .candidates = gated_candidates,
                          .blocks = gated_blocks,
                          .arguments = {"gate",
                                        "up",
                                        "y",
                                        {"rows", "gate.rows"},
                                        {"gate_stride", "gate.stride"},
                                        {"up_stride", "up.stride"}}});
  }
  op.example = [flags](const Extent& e) {
    return with_flags({{.input = "gate", .shape = {e["rows"], e["size"]}},
                       {.input = "up", .shape = {e["rows"], e["size"]}}},
                      flags);
  };
  op.bench = {{"width-11008", {{"rows", 8192}, {"size", 11008}}},
              {"width-14336", {{"rows", 8192}, {"size", 14336}}}};
  return op;
}

Op gated_backward_op(std::string name, std::string source, std::vector<Input> flags,
                     const std::vector<GatedKernel>& variants) {
  Op op;
  op.name = std::move(name);
  op.doc = "gradients: dgate = dy * up * act'(gate), dup = dy * act(gate)";
  op.internal = true;
  op.inputs = {rows("dy"), rows("gate"), rows("up")};
  op.inputs.insert(op.inputs.end(), flags.begin(), flags.end());
  op.inputs.push_back(mask("output_mask", 2));
  op.outputs = {{"dgate", gate_shape, gate_dtype}, {"dup", gate_shape, gate_dtype}};
  op.sharding = Sharding::elements;
  op.check = [](const Call& call) {
    check_gated(call);
    require_same_shape(call, "gate", "dy");
    require_same_dtype(call, "gate", "dy");
  };
  for (const GatedKernel& variant : variants) {
    op.kernels.push_back({.name = variant.kernel + "Backward",
                          .source = source,
                          .when = variant.when,
                          .spec = gated_spec,
                          .candidates = gated_candidates,
                          .blocks = gated_blocks,
                          .arguments = {"dy",
                                        "gate",
                                        "up",
                                        "dgate",
                                        "dup",
                                        {"rows", "gate.rows"},
                                        {"dy_stride", "dy.stride"},
                                        {"gate_stride", "gate.stride"},
                                        {"up_stride", "up.stride"}}});
  }
  op.example = [flags](const Extent& e) {
    auto samples = with_flags({{.input = "dy", .shape = {e["rows"], e["size"]}},
                               {.input = "gate", .shape = {e["rows"], e["size"]}},
                               {.input = "up", .shape = {e["rows"], e["size"]}}},
                              flags);
    samples.push_back({.input = "output_mask", .value = 3});
    return samples;
  };
  return op;
}

}  // namespace liger
