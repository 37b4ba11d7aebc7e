#include "ops/loss/cross_entropy.h"

#include "engine/arguments.h"
#include "engine/registry.h"
#include "ops/resident_rows.h"

namespace liger {

Input reduction_choice() { return choice("reduction", {"none", "mean", "sum"}, "mean"); }

std::vector<Input> cross_entropy_options() {
  return {integer("ignore_index", -100),
          real("label_smoothing", "0.0"),
          real("lse_square_scale", "0.0"),
          real("softcap", "0.0"),
          reduction_choice(),
          flag("token_scaling"),
          flag("want_accuracy"),
          flag("want_predicted")};
}

Reduction reduction_of(const Call& call) {
  return static_cast<Reduction>(call.integer("reduction"));
}

double gradient_unit(Dtype dtype, Reduction reduction) {
  return dtype == Dtype::f16 && reduction == Reduction::mean ? 4096.0 : 1.0;
}

void check_cross_entropy(const Call& call, int64_t rows, int64_t classes, Dtype arithmetic_of) {
  const auto text = [](auto value) { return std::to_string(value); };
  if (call["target"].count() != rows || call["target"].dims != 1) {
    call.refuse("target", "has shape " + shape_text(call["target"]),
                "[" + text(rows) + "], one label a row");
  }
  if (const double e = call.real("label_smoothing"); !(e >= 0.0 && e <= 1.0)) {
    call.refuse("label_smoothing", "is " + text(e), "0 to 1");
  }
  if (const double cap = call.real("softcap"); !(cap >= 0.0)) {
    call.refuse("softcap", "is " + text(cap), "a positive number, or 0 for none");
  }
  for (const std::string_view weight : {"weight", "ce_weight"}) {
    if (call.op().input_index(weight) < 0 ||
        (weight == "weight" && call.op().input_index("ce_weight") >= 0)) {
      continue;
    }
    const Tensor& w = call[weight];
    if (!w.defined) continue;
    if (w.dims != 1 || w.sizes[0] != classes) {
      call.refuse(weight, "has shape " + shape_text(w),
                  "[" + text(classes) + "], one weight a class");
    }
    if (w.dtype != arithmetic(arithmetic_of)) {
      call.refuse(weight, "has dtype " + std::string(name_of(w.dtype)),
                  std::string(name_of(arithmetic(arithmetic_of))));
    }
  }
}

namespace {

// One-block kernels read a few bytes a row.
std::vector<Knobs> one_block_candidates(const Call& call) {
  return {{{"threads", call.on_host() ? 1 : 1024}}};
}
int64_t one_block(const Call&, const Knobs&) { return 1; }

// The logits of a call, and where their gradient goes.
RereadRows rows_of_logits(const Call& call, bool in_place) {
  const bool has_registers_to_spare =
      call.real("label_smoothing") == 0.0 && call.real("softcap") == 0.0;
  const bool fresh_gradient = !in_place && call.flag("with_gradient");
  return {call, {"logits"}, fresh_gradient ? "dlogits" : "", has_registers_to_spare};
}

Spec rows_spec(const Call& call, bool grad_output, bool with_loss, bool with_gradient, bool scaled,
               bool in_place, bool joined) {
  const RereadRows rows = rows_of_logits(call, in_place);
  return {
      {"logits", call["logits"].dtype},
      {"classes", call["logits"].last_size()},
      {"align_bytes", rows.align_bytes()},
      {"has_weight", call.has("weight")},
      {"has_grad_output", grad_output},
      {"smoothing", call.real("label_smoothing") != 0.0},
      {"z_loss", call.real("lse_square_scale") != 0.0},
      {"softcap", call.real("softcap") != 0.0},
      {"token_scaling", call.flag("token_scaling")},
      {"accuracy", with_loss && (call.flag("want_accuracy") || call.flag("want_predicted"))},
      {"with_loss", with_loss},
      {"with_gradient", with_gradient},
      {"scaled", scaled},
      {"unit",
       scaled ? static_cast<int64_t>(gradient_unit(call["logits"].dtype, reduction_of(call))) : 1},
      {"in_place", in_place},
      {"joined", joined},
      {"held", rows.resident()}};
}

// The kernel over rows without what differs between its users.
KernelOf rows_kernel(bool in_place) {
  return {.name = "CrossEntropyRows",
          .source = "loss/cross_entropy.h",
          .candidates =
              [in_place](const Call& call) { return rows_of_logits(call, in_place).candidates(); },
          .blocks =
              [in_place](const Call& call, const Knobs& knobs) {
                return rows_of_logits(call, in_place).blocks(knobs);
              },
          .shared_bytes =
              [in_place](const Call& call, const Knobs& knobs) {
                return rows_of_logits(call, in_place).shared_bytes(knobs);
              }};
}

KernelOf totals_kernel(std::function<bool(const Call&)> when,
                       std::function<Dtype(const Call&)> dtype,
                       std::function<int64_t(const Call&)> classes) {
  return {.name = "CrossEntropyTotals",
          .source = "loss/cross_entropy.h",
          .when = std::move(when),
          .spec = [dtype](const Call& call) -> Spec {
            return {{"arithmetic", dtype(call)},
                    {"mean", reduction_of(call) == Reduction::mean},
                    {"has_weight", call.has("weight")},
                    {"has_num_items", call.has("num_items")}};
          },
          .candidates = one_block_candidates,
          .blocks = one_block,
          .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
          .arguments = {"target",
                        {"class_weight", "weight"},
                        "num_items",
                        "totals",
                        {"rows", "target.size0"},
                        {"classes", std::move(classes)},
                        "ignore_index"}};
}

KernelOf mean_kernel(std::function<bool(const Call&)> when, std::function<Dtype(const Call&)> dtype,
                     std::string row_loss, std::string row_z_loss, std::string loss,
                     std::string z_loss) {
  return {.name = "CrossEntropyMean",
          .source = "loss/cross_entropy.h",
          .when = std::move(when),
          .spec = [dtype](const Call& call) -> Spec {
            return {{"arithmetic", dtype(call)}, {"accuracy", call.flag("want_accuracy")}};
          },
          .candidates = one_block_candidates,
          .blocks = one_block,
          .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
          .arguments = {{"row_loss", std::move(row_loss)},
                        {"row_z_loss", std::move(row_z_loss)},
                        "predicted",
                        "target",
                        "totals",
                        {"loss", std::move(loss)},
                        {"z_loss", std::move(z_loss)},
                        "token_accuracy",
                        {"rows", "target.size0"},
                        "ignore_index"}};
}

Dtype logits_arithmetic(const Call& call) { return arithmetic(call["logits"].dtype); }
bool reduced(const Call& call) { return reduction_of(call) != Reduction::none; }
bool wants_accuracy_alone(const Call& call) { return !reduced(call) && call.flag("want_accuracy"); }
bool finishes(const Call& call) { return reduced(call) || call.flag("want_accuracy"); }

KernelOf rows_kernel(bool joined, std::string loss, std::string z_loss) {
  KernelOf kernel = rows_kernel(false);
  kernel.when = [joined](const Call& call) { return reduced(call) != joined; };
  kernel.spec = [joined](const Call& call) {
    return rows_spec(call, false, true, call.flag("with_gradient"), reduced(call), false, joined);
  };
  const auto none = [](const Call&) { return int64_t{0}; };
  kernel.arguments = {
      "logits",
      "target",
      {"class_weight", "weight"},
      "totals",
      {"grad_output", none},
      {"loss", std::move(loss)},
      {"z_loss", std::move(z_loss)},
      "predicted",
      "dlogits",
      {"fault", FaultOf{"target", "ignore_index"}},
      {"rows", "logits.rows"},
      {"logits_stride", "logits.stride"},
      {"dlogits_stride", [](const Call& call) { return call["logits"].last_size(); }},
      "ignore_index",
      {"first_row", none},
      "label_smoothing",
      "lse_square_scale",
      "softcap"};
  return kernel;
}

// A call whose time is that of its launches takes one, in which a row has a warp, and a block so
// few rows that they are short beside a launch. On the host one thread is done before others wake.
int64_t blocks_at_once(const Call& call) { return call.place().capability >= 90 ? 8 : 1; }
bool at_once(const Call& call) {
  const int64_t rows = call["logits"].rows();
  const int64_t classes = call["logits"].last_size();
  const int64_t logits_of_block = call.on_host() ? 1 << 13 : 1 << 12;
  return reduced(call) && classes <= 1024 && rows <= 128 * blocks_at_once(call) &&
         rows * classes <= logits_of_block * blocks_at_once(call);
}

// A longer row takes more registers than 1024 threads have.
Knobs rows_at_once(const Call& call) {
  if (call.on_host()) return of_one_block(1, 1);
  return of_one_block(32, call["logits"].last_size() > 256 ? 16 : 32);
}
int64_t threads_at_once(const Call& call) {
  const Knobs knobs = rows_at_once(call);
  return value_of(knobs, "threads", 1) * value_of(knobs, "rows", 1);
}

KernelOf at_once_kernel(const KernelOf& count, const KernelOf& each, const KernelOf& sum) {
  KernelOf kernel{
      .name = "CrossEntropyAtOnce",
      .source = "loss/cross_entropy.h",
      .when = at_once,
      .spec = [=](const Call& call) -> Spec {
        const Knobs of_block = {{"threads", threads_at_once(call)}};
        return {{"count", full_spec(count, call, of_block)},
                {"each", full_spec(each, call, rows_at_once(call))},
                {"sum", full_spec(sum, call, of_block)}};
      },
      .candidates = [](const Call& call) -> std::vector<Knobs> {
        return {{{"threads", threads_at_once(call)}, {"cluster", blocks_at_once(call)}}};
      },
      .blocks = [](const Call& call, const Knobs&) { return blocks_at_once(call); }};
  for (const auto& [member, part] :
       {std::pair{"count.", &count}, {"each.", &each}, {"sum.", &sum}}) {
    for (const Argument& argument : part->arguments)
      kernel.arguments.emplace_back(member + argument.member, argument.source);
  }
  return kernel;
}

std::vector<KernelOf> loss_kernels() {
  const KernelOf count = totals_kernel(finishes, logits_arithmetic,
                                       [](const Call& call) { return call["logits"].last_size(); });
  const KernelOf each = rows_kernel(false, "row_loss", "row_z_loss");
  const KernelOf sum =
      mean_kernel(reduced, logits_arithmetic, "row_loss", "row_z_loss", "loss", "z_loss");
  std::vector<KernelOf> kernels = {
      count, each, rows_kernel(true, "loss", "z_loss"), sum,
      mean_kernel(wants_accuracy_alone, logits_arithmetic, "loss", "z_loss", "unused", "unused")};
  for (KernelOf& kernel : kernels) {
    kernel.when = [when = kernel.when](const Call& call) { return when(call) && !at_once(call); };
  }
  kernels.push_back(at_once_kernel(count, each, sum));
  return kernels;
}

Temporary of_each_row(std::string name) {
  return {std::move(name), [](const Call& call) -> int64_t {
            return reduced(call) ? call["logits"].rows() * size_bytes(logits_arithmetic(call)) : 0;
          }};
}

std::vector<Input> cross_entropy_inputs() {
  std::vector<Input> inputs = {rows("logits"), dense("target", {Dtype::i64}),
                               optional(dense("weight")),
                               optional(dense("num_items", {Dtype::f32}))};
  for (Input& option : cross_entropy_options()) inputs.push_back(std::move(option));
  inputs.push_back(flag("with_gradient"));
  return inputs;
}

const Register cross_entropy{Op{
    .name = "cross_entropy",
    .doc = "cross entropy of rows of logits, with class weights, label smoothing, z loss and "
           "softcap; the "
           "gradient is made in the same launch",
    .inputs = cross_entropy_inputs(),
    .outputs =
        {{"loss", [](const Call& call) { return reduced(call) ? scalar() : rows_of("logits"); },
          logits_arithmetic},
         {"z_loss", [](const Call& call) { return reduced(call) ? scalar() : rows_of("logits"); },
          logits_arithmetic, false},
         {"token_accuracy",
          [](const Call& call) { return call.flag("want_accuracy") ? scalar() : empty(); },
          logits_arithmetic, false},
         {"predicted",
          [](const Call& call) {
            return call.flag("want_accuracy") || call.flag("want_predicted") ? rows_of("logits")
                                                                             : empty();
          },
          [](const Call&) { return Dtype::i64; }, false},
         {"dlogits",
          [](const Call& call) { return call.flag("with_gradient") ? like("logits") : empty(); },
          [](const Call& call) { return call["logits"].dtype; }, false}},
    .temporaries =
        {{"totals",
          [](const Call& call) -> int64_t { return 3 * size_bytes(logits_arithmetic(call)); }},
         of_each_row("row_loss"),
         of_each_row("row_z_loss"),
         {"unused",
          [](const Call& call) -> int64_t { return 2 * size_bytes(logits_arithmetic(call)); }}},
    .check =
        [](const Call& call) {
          require_dims(call, "logits", 2, "[rows, classes]");
          check_cross_entropy(call, call["logits"].rows(), call["logits"].last_size(),
                              call["logits"].dtype);
        },
    .kernels = loss_kernels(),
    .gradient = {.of = {{"logits", "dlogits"}},
                 .needs_grad_flag = "with_gradient",
                 .unit =
                     [](const Call& call) {
                       return gradient_unit(call["logits"].dtype, reduction_of(call));
                     }},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "logits", .shape = {e["rows"], e["size"]}},
              {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
              {.input = "weight", .none = true},
              {.input = "num_items", .none = true}};
    },
    .bench = {{"vocabulary-32000", {{"rows", 8192}, {"size", 32000}}},
              {"vocabulary-50257", {{"rows", 8192}, {"size", 50257}}},
              {"vocabulary-128256", {{"rows", 8192}, {"size", 128256}}},
              {"vocabulary-151936", {{"rows", 4096}, {"size", 151936}}}},
}};

// Parts for fused linear losses. They write into buffers of the composite, which owns the memory
// plan.
Dtype totals_dtype(const Call& call) { return call["totals"].dtype; }

std::vector<Input> chunk_inputs() {
  std::vector<Input> inputs = {written(rows("logits")),
                               dense("target", {Dtype::i64}),
                               optional(dense("weight")),
                               optional(dense("totals")),
                               optional(dense("grad_output")),
                               optional(written(dense("loss"))),
                               optional(written(dense("z_loss"))),
                               optional(written(dense("predicted", {Dtype::i64}))),
                               optional(dense("places", {Dtype::i64})),
                               integer("first_row", 0)};
  for (Input& option : cross_entropy_options()) inputs.push_back(std::move(option));
  inputs.push_back(flag("with_gradient"));
  return inputs;
}

KernelOf rows_of_chunk() {
  KernelOf kernel = rows_kernel(true);
  kernel.spec = [](const Call& call) {
    return rows_spec(call, call.has("grad_output"), call.has("loss"), call.flag("with_gradient"),
                     call.has("totals"), true, !reduced(call));
  };
  kernel.arguments = {"logits",
                      "target",
                      {"class_weight", "weight"},
                      "totals",
                      "grad_output",
                      "loss",
                      "z_loss",
                      "predicted",
                      {"dlogits", "logits"},
                      {"fault", FaultOf{"target", "ignore_index", "places"}},
                      {"rows", "logits.rows"},
                      {"logits_stride", "logits.stride"},
                      {"dlogits_stride", "logits.stride"},
                      "ignore_index",
                      "first_row",
                      "label_smoothing",
                      "lse_square_scale",
                      "softcap"};
  return kernel;
}

const Register cross_entropy_chunk{Op{
    .name = "cross_entropy_chunk_",
    .doc = "loss of each row of a chunk of logits; the gradient overwrites the logits",
    .internal = true,
    .inputs = chunk_inputs(),
    .check =
        [](const Call& call) {
          check_cross_entropy(call, call["logits"].rows(), call["logits"].last_size(),
                              call["logits"].dtype);
        },
    .kernels = {rows_of_chunk()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "logits", .shape = {e["rows"], e["size"]}},
              {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
              {.input = "weight", .none = true},
              {.input = "totals", .shape = {3}, .dtype = "arithmetic"},
              {.input = "grad_output", .none = true},
              {.input = "loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
              {.input = "z_loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
              {.input = "predicted", .none = true},
              {.input = "with_gradient", .value = 1}};
    },
}};

const Register cross_entropy_totals{Op{
    .name = "cross_entropy_totals_",
    .doc = "counts the labels that are not ignored and makes the factors of a loss from them",
    .internal = true,
    .inputs = {dense("target", {Dtype::i64}), optional(dense("weight")),
               optional(dense("num_items", {Dtype::f32})), written(dense("totals")),
               integer("classes", 1), integer("ignore_index", -100), reduction_choice()},
    .kernels = {totals_kernel({}, totals_dtype,
                              [](const Call& call) { return call.integer("classes"); })},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
              {.input = "weight", .none = true},
              {.input = "num_items", .none = true},
              {.input = "totals", .shape = {3}, .dtype = "arithmetic"},
              {.input = "classes", .value = static_cast<double>(e["size"])}};
    },
}};

const Register cross_entropy_mean{Op{
    .name = "cross_entropy_mean_",
    .doc = "adds the losses of rows, in an order fixed by their number, and scales them",
    .internal = true,
    .inputs = {dense("row_loss"), dense("row_z_loss"), optional(dense("predicted", {Dtype::i64})),
               dense("target", {Dtype::i64}), dense("totals"), written(dense("loss")),
               written(dense("z_loss")), optional(written(dense("token_accuracy"))),
               integer("ignore_index", -100), flag("want_accuracy")},
    .kernels = {mean_kernel({}, totals_dtype, "row_loss", "row_z_loss", "loss", "z_loss")},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "row_loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
              {.input = "row_z_loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
              {.input = "predicted", .none = true},
              {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
              {.input = "totals", .shape = {3}, .dtype = "arithmetic"},
              {.input = "loss", .shape = {}, .dtype = "arithmetic"},
              {.input = "z_loss", .shape = {}, .dtype = "arithmetic"},
              {.input = "token_accuracy", .none = true}};
    },
}};

}  // namespace
}  // namespace liger
