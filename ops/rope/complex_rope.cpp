#include "engine/registry.h"
#include "ops/rope/rotary.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

RotaryForm form() {
  RotaryForm form;
  form.name = "complex_rope";
  form.doc =
      "rotary embedding of q and k by complex factors: neighbours in a head are the parts of a "
      "number; freqs has parts side by side";
  form.kernel = "ComplexRope";
  form.source = "rope/complex_rope.h";
  form.tables = {of_tokens(strided("freqs"))};
  form.check = [](const Call& call, const TurnedHeads& heads) {
    require_dims(call, "freqs", 3, "[1 or batch, tokens, rotary size]");
    check_table(call, "freqs", heads.q);
  };
  form.rotary = [](const Call& call) { return call["freqs"].last_size(); };
  form.interleaved = [](const Call&) { return true; };
  form.table_fields = [](const Call& call) -> Spec { return {{"angle", call["freqs"].dtype}}; };
  form.table_arguments = {"freqs"};
  add_table_strides(form.table_arguments, "freqs");
  form.table_samples = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "freqs", .shape = {1, e["rows"], e["size"]}, .dtype = "arithmetic"}};
  };
  form.bench = {{"heads-32-8", {{"rows", 16384}, {"size", 128}, {"inner", 32}}},
                {"heads-40-10", {{"rows", 8192}, {"size", 128}, {"inner", 40}}}};
  return form;
}

const Register complex_rope{turning(form())};
const Register complex_rope_backward{turning_back(form())};

}  // namespace
}  // namespace liger
