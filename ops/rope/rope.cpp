#include "engine/registry.h"
#include "ops/rope/rotary.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

int columns_of_angle(const Call& call) { return call.flag("half_tables") ? 2 : 1; }

Spec table_fields(const Call& call) {
  return {{"angle", call["cos"].dtype}, {"half_tables", call.flag("half_tables")}};
}

// Two tables, which turn pairs of either kind.
RotaryForm form_of(std::string name, std::string doc, std::string kernel) {
  RotaryForm form;
  form.name = std::move(name);
  form.doc = std::move(doc);
  form.kernel = std::move(kernel);
  form.source = "rope/rope.h";
  form.options = {flag("interleaved"), flag("half_tables")};
  form.rotary = [](const Call& call) { return call["cos"].last_size() * columns_of_angle(call); };
  form.interleaved = [](const Call& call) { return call.flag("interleaved"); };
  form.table_fields = table_fields;
  form.table_arguments = {"cos", "sin"};
  return form;
}

RotaryForm by_token() {
  RotaryForm form = form_of("rope",
                            "rotary embedding of q and k; as many columns of a head turn as cos "
                            "and sin have angles, or twice as many",
                            "Rope");
  form.tables = {of_tokens(strided("cos")), of_tokens(strided("sin"))};
  form.check = [](const Call& call, const TurnedHeads& heads) {
    require_dims(call, "cos", 3, "[1 or batch, tokens, rotary size]");
    require_same_shape(call, "cos", "sin");
    require_same_dtype(call, "cos", "sin");
    check_table(call, "cos", heads.q, 3, columns_of_angle(call));
  };
  add_angle_strides(form.table_arguments);
  form.table_samples = [](const Extent& e) { return angle_samples({1, e["rows"], e["size"]}); };
  form.bench = {{"heads-32-8", {{"rows", 16384}, {"size", 128}, {"inner", 32}}}};
  return form;
}

void check_positions(const Call& call, const TurnedHeads& heads) {
  require_dims(call, "cos", 2, "[positions, rotary size]");
  require_same_shape(call, "cos", "sin");
  require_same_dtype(call, "cos", "sin");
  check_rotary_size(call, "cos", heads.q, columns_of_angle(call));
  const Tensor& q = call[heads.q];
  const Tensor& ids = call["position_ids"];
  require_dims(call, "position_ids", 2, "[1 or batch, tokens]");
  if ((ids.sizes[0] != 1 && ids.sizes[0] != q.sizes[0]) || ids.sizes[1] != q.sizes[2]) {
    call.refuse("position_ids", "has shape " + shape_text(ids),
                "[1 or " + std::to_string(q.sizes[0]) + ", " + std::to_string(q.sizes[2]) + "]");
  }
  if (call["cos"].sizes[0] < 1) {
    call.refuse("cos", "has shape " + shape_text(call["cos"]), "1 position or more");
  }
}

RotaryForm by_position() {
  RotaryForm form = form_of("rope_by_position",
                            "rope whose tables have a row for each position, and tokens that say "
                            "which is theirs",
                            "RopeByPosition");
  form.tables = {strided("cos"), strided("sin"), of_tokens(dense("position_ids", {Dtype::i64}))};
  form.check = check_positions;
  form.table_arguments.insert(form.table_arguments.end(),
                              {"position_ids",
                               {"cos_stride", "cos.stride0"},
                               {"sin_stride", "sin.stride0"},
                               {"position_ids_stride",
                                [](const Call& call) -> int64_t {
                                  const Tensor& ids = call["position_ids"];
                                  return ids.sizes[0] == 1 ? 0 : ids.strides[0];
                                }},
                               {"positions", "cos.size0"},
                               {"fault", FaultOf{"position_ids"}}});
  form.table_samples = [](const Extent& e) {
    const int64_t positions = e["rows"] + 3;
    std::vector<Sample> list = angle_samples({positions, e["size"]});
    list.push_back(
        {.input = "position_ids", .shape = {1, e["rows"]}, .dtype = "i64", .below = positions});
    return list;
  };
  return form;
}

const Register rope{turning(by_token())};
const Register rope_backward{turning_back(by_token())};
const Register rope_by_position{turning(by_position())};
const Register rope_by_position_backward{turning_back(by_position())};

}  // namespace
}  // namespace liger
