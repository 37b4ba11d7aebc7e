#include "engine/registry.h"
#include "ops/rope/rotary.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

void check(const Call& call, const TurnedHeads& heads) {
  require_dims(call, "cos", 4, "[3, 1 or batch, tokens, rotary size]");
  require_same_shape(call, "cos", "sin");
  require_same_dtype(call, "cos", "sin");
  const Tensor& cos = call["cos"];
  if (cos.sizes[0] != 3) {
    call.refuse("cos", "has shape " + shape_text(cos), "3 axes, of time, height and width, first");
  }
  check_table(call, "cos", heads.q, 4);
  const int64_t half = cos.last_size() / 2;
  int64_t left = half;
  for (const char* section : {"temporal", "height", "width"}) {
    const int64_t pairs = call.integer(section);
    if (pairs < 0 || pairs > left) {
      call.refuse(section, "is " + std::to_string(pairs), "0 to " + std::to_string(left));
    }
    left -= pairs;
  }
  if (left != 0) {
    call.refuse("width", "is " + std::to_string(call.integer("width")),
                std::to_string(call.integer("width") + left) +
                    ", so that temporal, height and width are the " + std::to_string(half) +
                    " pairs that turn");
  }
}

// As Qwen2-VL divides its 64 pairs: 16, 24, 24.
std::vector<Sample> sections(int64_t pairs) {
  const int64_t temporal = pairs / 4;
  const int64_t height = (pairs - temporal) / 2;
  return {{.input = "temporal", .value = static_cast<double>(temporal)},
          {.input = "height", .value = static_cast<double>(height)},
          {.input = "width", .value = static_cast<double>(pairs - temporal - height)}};
}

RotaryForm form() {
  RotaryForm form;
  form.name = "mrope";
  form.doc =
      "rotary embedding of q and k in half-split form, each pair of columns by the angle of one of "
      "a token's three positions";
  form.kernel = "MRope";
  form.source = "rope/mrope.h";
  form.tables = {of_tokens(strided("cos"), 1), of_tokens(strided("sin"), 1)};
  form.options = {integer("temporal", 0), integer("height", 0), integer("width", 0),
                  flag("interleaved_sections")};
  form.check = check;
  form.rotary = [](const Call& call) { return call["cos"].last_size(); };
  form.interleaved = [](const Call&) { return false; };
  form.table_fields = [](const Call& call) -> Spec {
    return {{"angle", call["cos"].dtype},
            {"temporal", call.integer("temporal")},
            {"height", call.integer("height")},
            {"width", call.integer("width")},
            {"interleaved_sections", call.flag("interleaved_sections")}};
  };
  form.table_arguments = {"cos", "sin"};
  add_angle_strides(form.table_arguments, 1);
  form.table_samples = [](const Extent& e) {
    std::vector<Sample> list = angle_samples({3, 1, e["rows"], e["size"]});
    for (const Sample& sample : sections(e["size"] / 2)) list.push_back(sample);
    return list;
  };
  form.bench = {{"heads-32-8", {{"rows", 16384}, {"size", 128}, {"inner", 32}}},
                {"heads-16-4", {{"rows", 8192}, {"size", 128}, {"inner", 16}}}};
  return form;
}

const Register mrope{turning(form())};
const Register mrope_backward{turning_back(form())};

}  // namespace
}  // namespace liger
