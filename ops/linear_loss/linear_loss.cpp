#include "ops/linear_loss/linear_loss.h"

#include "ops/linear_loss/chunking_policy.h"
#include "ops/loss/log_probs.h"
#include "ops/row_knobs.h"

namespace liger {

std::vector<Input> division_options() {
  return {choice("accumulate", {"automatic", "weight_dtype", "float32"}, "automatic"),
          integer("chunk_tokens", 0), flag("exact"), integer("counted_tokens", -1)};
}

void check_linear_layer(const Call& call, int dims, std::string_view shape) {
  require_dims(call, "input", dims, shape);
  require_dims(call, "weight", 2, "[classes, hidden]");
  require_same_dtype(call, "input", "weight");
  require_same_dtype(call, "input", "bias");
  const Tensor& input = call["input"];
  const Tensor& weight = call["weight"];
  if (weight.last_size() != input.last_size()) {
    call.refuse("weight", "has shape " + shape_text(weight),
                "[classes, " + std::to_string(input.last_size()) + "], the hidden size of 'input'");
  }
  if (call.has("bias") && (call["bias"].dims != 1 || call["bias"].sizes[0] != weight.sizes[0])) {
    call.refuse("bias", "has shape " + shape_text(call["bias"]),
                "[" + std::to_string(weight.sizes[0]) + "]");
  }
  if (const int64_t chunk = call.integer("chunk_tokens"); chunk < chunk_least_memory) {
    call.refuse("chunk_tokens", "is " + std::to_string(chunk),
                "a positive number of tokens, 0 to choose from the sizes, -1 for the least memory");
  }
}

std::vector<Input> token_layer() {
  return {dense("input"), dense("weight"), dense("ids", {Dtype::i64}), optional(dense("bias"))};
}

void check_token_layer(const Call& call) {
  check_linear_layer(call, 2, "[tokens, hidden]");
  if (call["ids"].dims != 1 || call["ids"].count() != call["input"].rows()) {
    call.refuse("ids", "has shape " + shape_text(call["ids"]),
                "[" + std::to_string(call["input"].rows()) + "], one id a token");
  }
  check_scores(call);
}

std::vector<Sample> token_layer_samples(const Extent& e) {
  return {{.input = "input", .shape = {e["rows"], e["inner"]}},
          {.input = "weight", .shape = {e["size"], e["inner"]}},
          {.input = "ids", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
          {.input = "bias", .none = true}};
}

}  // namespace liger
