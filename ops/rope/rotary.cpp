#include "ops/rope/rotary.h"

#include "ops/row_knobs.h"

namespace liger {

void check_rotary(const Call& call, std::string_view q, std::string_view k) {
  require_dims(call, q, 4, "[batch, heads, tokens, head size]");
  require_dims(call, k, 4, "[batch, heads, tokens, head size]");
  require_dims(call, "cos", 3, "[1 or batch, tokens, rotary size]");
  require_same_shape(call, "cos", "sin");
  require_same_dtype(call, "cos", "sin");
  require_same_dtype(call, q, k);
  const Tensor& x = call[q];
  const Tensor& cos = call["cos"];
  const auto text = [](int64_t n) { return std::to_string(n); };
  if (call.has(k)) {
    const Tensor& y = call[k];
    if (y.sizes[0] != x.sizes[0] || y.sizes[2] != x.sizes[2] || y.sizes[3] != x.sizes[3]) {
      call.refuse(k, "has shape " + shape_text(y), "q's shape but for the heads: " + shape_text(x));
    }
  }
  if (cos.sizes[0] != 1 && cos.sizes[0] != x.sizes[0]) {
    call.refuse("cos", "has batch " + text(cos.sizes[0]), "1 or " + text(x.sizes[0]));
  }
  if (cos.sizes[1] != x.sizes[2]) {
    call.refuse("cos", "has " + text(cos.sizes[1]) + " tokens", text(x.sizes[2]));
  }
  const int64_t rotary = cos.sizes[2];
  if (rotary < 2 || rotary % 2 != 0 || rotary > x.sizes[3]) {
    call.refuse("cos", "has last size " + text(rotary),
                "an even number from 2 to the head size " + text(x.sizes[3]));
  }
}

void add_head_strides(std::vector<Argument>& arguments, const std::string& member,
                      const std::string& tensor) {
  for (const auto& [field, stride] :
       {std::pair{".batch", ".stride0"}, {".head", ".stride1"}, {".token", ".stride2"}}) {
    arguments.emplace_back(member + "_strides" + field, tensor + stride);
  }
}

void add_angle_strides(std::vector<Argument>& arguments) {
  for (const std::string table : {"cos", "sin"}) {
    // A batch of one is read for every batch.
    arguments.emplace_back(table + "_strides[0]", [table](const Call& call) -> int64_t {
      return call[table].sizes[0] == 1 ? 0 : call[table].strides[0];
    });
    arguments.emplace_back(table + "_strides[1]", table + ".stride1");
  }
}

}  // namespace liger
