#include "engine/registry.h"
#include "ops/loss/log_probs.h"
#include "ops/resident_rows.h"

namespace liger {

std::vector<Input> score_options() {
  return {real("temperature", "1.0"), real("softcap", "0.0"), integer("ignore_index", -100)};
}

std::vector<Input> rank_options() { return {integer("rank", 0), integer("ranks", 1)}; }

void check_ranks(const Call& call) {
  const int64_t rank = call.integer("rank"), ranks = call.integer("ranks");
  if (ranks < 1) call.refuse("ranks", "is " + std::to_string(ranks), "1 or more");
  if (rank < 0 || rank >= ranks)
    call.refuse("rank", "is " + std::to_string(rank), "0 to " + std::to_string(ranks - 1));
}

void check_scores(const Call& call) {
  if (const double t = call.real("temperature"); !(t > 0.0)) {
    call.refuse("temperature", "is " + std::to_string(t), "a positive number");
  }
  if (const double cap = call.real("softcap"); !(cap >= 0.0)) {
    call.refuse("softcap", "is " + std::to_string(cap), "a positive number, or 0 for none");
  }
}

namespace {

Dtype logits_arithmetic(const Call& call) { return arithmetic(call["logits"].dtype); }

void require_numbers(const Call& call, std::string_view name, int64_t a_row) {
  const Tensor& tensor = call[name];
  if (!tensor.defined) return;
  const int64_t rows = call["logits"].rows();
  if (tensor.count() == rows * a_row && tensor.dtype == logits_arithmetic(call)) return;
  call.refuse(
      name, "has shape " + shape_text(tensor) + " and dtype " + std::string(name_of(tensor.dtype)),
      std::to_string(a_row) + " " + std::string(name_of(logits_arithmetic(call))) +
          " for each of the " + std::to_string(rows) + " rows");
}

void check(const Call& call) {
  require_dims(call, "logits", 2, "[rows, classes]");
  if (call["ids"].dims != 1 || call["ids"].count() != call["logits"].rows()) {
    call.refuse("ids", "has shape " + shape_text(call["ids"]),
                "[" + std::to_string(call["logits"].rows()) + "], one id a row");
  }
  check_scores(call);
}

// Of classes that are spread over ranks; an op of rows that are whole has no such options.
bool of_part(const Call& call) {
  return call.op().input_index("ranks") >= 0 && call.integer("ranks") > 1;
}
int64_t first_class(const Call& call) {
  return of_part(call) ? call.integer("rank") * call["logits"].last_size() : 0;
}
int64_t all_classes(const Call& call) {
  return call["logits"].last_size() * (of_part(call) ? call.integer("ranks") : 1);
}

Spec scores_spec(const Call& call) {
  return {{"logits", call["logits"].dtype},
          {"classes", call["logits"].last_size()},
          {"softcap", call.real("softcap") != 0.0},
          {"tempered", call.real("temperature") != 1.0}};
}

// An op whose rows may have a second id has one as `nll_ids`, the name that it has where that is
// offered.
bool has_second(const Call& call) {
  return call.op().input_index("nll_ids") >= 0 && call.has("nll_ids");
}
int64_t none(const Call&) { return 0; }
Argument second(bool offered, const char* member, const char* source) {
  return offered ? Argument(member, source) : Argument(member, none);
}

KernelOf rows_kernel(std::function<bool(const Call&)> entropy,
                     std::function<bool(const Call&)> keeps, Argument entropy_to,
                     Argument first_row, bool of_chunk) {
  const std::string places = of_chunk ? "places" : "";
  return reread_kernel({.name = "LogProbRows",
                        .source = "loss/selective_log_softmax.h",
                        .spec = [entropy, keeps](const Call& call) -> Spec {
                          const RereadRows rows(call, {"logits"});
                          Spec spec = scores_spec(call);
                          spec.insert(spec.end(), {{"align_bytes", rows.align_bytes()},
                                                   {"entropy", entropy(call)},
                                                   {"keeps", keeps(call)},
                                                   {"part", of_part(call)},
                                                   {"second", has_second(call)},
                                                   {"held", rows.resident()}});
                          return spec;
                        },
                        .arguments = {"logits",
                                      "ids",
                                      "log_probs",
                                      std::move(entropy_to),
                                      "statistics",
                                      {"fault", FaultOf{"ids", "ignore_index", places}},
                                      {"rows", "logits.rows"},
                                      {"logits_stride", "logits.stride"},
                                      std::move(first_row),
                                      "ignore_index",
                                      {"first_class", first_class},
                                      {"all_classes", all_classes},
                                      "temperature",
                                      "softcap",
                                      second(of_chunk, "second_ids", "nll_ids"),
                                      second(of_chunk, "second_log_probs", "nll_log_probs"),
                                      {"second_fault", FaultOf{of_chunk ? "nll_ids" : "ids",
                                                               "ignore_index", places}}}},
                       {"logits"}, "", 64);
}

KernelOf gradient_kernel(bool in_place, std::function<bool(const Call&)> entropy, Argument dentropy,
                         Argument stride) {
  return {.name = "LogProbGradient",
          .source = "loss/selective_log_softmax.h",
          .spec = [in_place, entropy](const Call& call) -> Spec {
            Spec spec = scores_spec(call);
            spec.insert(spec.end(), {{"align_bytes", int64_t{call.align_bytes()}},
                                     {"entropy", entropy(call)},
                                     {"in_place", in_place},
                                     {"part", of_part(call)},
                                     {"second", has_second(call)}});
            return spec;
          },
          .candidates =
              [](const Call& call) { return row_candidates(call, call["logits"].last_size(), 0); },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(call["logits"].rows(), knobs); },
          .arguments = {"logits",
                        "ids",
                        "statistics",
                        "dlog_probs",
                        std::move(dentropy),
                        {"dlogits", in_place ? "logits" : "dlogits"},
                        {"rows", "logits.rows"},
                        {"logits_stride", "logits.stride"},
                        std::move(stride),
                        "ignore_index",
                        {"first_class", first_class},
                        {"all_classes", all_classes},
                        "temperature",
                        "softcap",
                        second(in_place, "second_ids", "nll_ids"),
                        second(in_place, "dsecond_log_probs", "dnll_log_probs")}};
}

bool never(const Call&) { return false; }

std::vector<Input> with_options(std::vector<Input> inputs) {
  for (Input& option : score_options()) inputs.push_back(std::move(option));
  return inputs;
}

Sample logits_sample(const Extent& e) {
  return {.input = "logits", .shape = {e["rows"], e["size"]}};
}
Sample ids_sample(const Extent& e) {
  return {.input = "ids", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]};
}
Sample numbers_sample(std::string name, const Extent& e, std::vector<int64_t> more = {}) {
  std::vector<int64_t> shape = {e["rows"]};
  shape.insert(shape.end(), more.begin(), more.end());
  return {.input = std::move(name), .shape = std::move(shape), .dtype = "arithmetic"};
}

Op forward_op() {
  Op op;
  op.name = "selective_log_softmax";
  op.doc = "log_softmax(cap(logits) / temperature) of one id a row";
  op.inputs = with_options({rows("logits"), dense("ids", {Dtype::i64})});
  op.inputs.push_back(flag("keep_statistics"));
  op.outputs = {{"log_probs", [](const Call&) { return rows_of("logits"); }, logits_arithmetic},
                {"statistics",
                 [](const Call& call) {
                   return call.flag("keep_statistics")
                              ? followed_by(rows_of("logits"), {log_prob_statistics})
                              : empty();
                 },
                 logits_arithmetic, false}};
  op.check = check;
  op.kernels = {rows_kernel(
      never, [](const Call& call) { return call.flag("keep_statistics"); }, {"entropy", none},
      {"first_row", none}, false)};
  op.gradient = {.backward = "selective_log_softmax_backward",
                 .saved = {"logits", "ids", "statistics"},
                 .of = {{"logits", "dlogits"}},
                 .needs_grad_flag = "keep_statistics"};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {logits_sample(e), ids_sample(e)};
  };
  op.bench = {{"vocabulary-32768", {{"rows", 8192}, {"size", 32768}}},
              {"vocabulary-151936", {{"rows", 4096}, {"size", 151936}}}};
  return op;
}

Op backward_op() {
  Op op;
  op.name = "selective_log_softmax_backward";
  op.doc = "dlogits = dlog_probs (one at the id, less softmax) / temperature";
  op.internal = true;
  op.inputs = with_options(
      {dense("dlog_probs"), rows("logits"), dense("ids", {Dtype::i64}), dense("statistics")});
  op.inputs.push_back(mask("output_mask", 1));
  op.outputs = {{"dlogits", [](const Call&) { return like("logits"); },
                 [](const Call& call) { return call["logits"].dtype; }}};
  op.check = [](const Call& call) {
    check(call);
    require_numbers(call, "dlog_probs", 1);
    require_numbers(call, "statistics", log_prob_statistics);
  };
  op.kernels = {gradient_kernel(
      false, never, {"dentropy", none},
      {"dlogits_stride", [](const Call& call) { return call["logits"].last_size(); }})};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {numbers_sample("dlog_probs", e),
            logits_sample(e),
            ids_sample(e),
            numbers_sample("statistics", e, {log_prob_statistics}),
            {.input = "temperature", .value = 1},
            {.input = "softcap", .value = 0},
            {.input = "ignore_index", .value = -100},
            {.input = "output_mask", .value = 1}};
  };
  return op;
}

// Parts for linear losses, over chunks of logits in buffers of the composite.
std::vector<Input> with_chunk_options(std::vector<Input> inputs) {
  for (Input& option : score_options()) inputs.push_back(std::move(option));
  for (Input& option : rank_options()) inputs.push_back(std::move(option));
  return inputs;
}

void check_second(const Call& call, std::string_view numbers) {
  if (call.has("nll_ids") && call["nll_ids"].count() != call["logits"].rows())
    call.refuse("nll_ids", "has shape " + shape_text(call["nll_ids"]), "one id a row");
  if (call.has("nll_ids") != call.has(numbers))
    call.refuse(numbers, call.has(numbers) ? "is given alone" : "is None", "with nll_ids");
  require_numbers(call, numbers, 1);
}

Op chunk_op() {
  Op op;
  op.name = "log_probs_chunk_";
  op.doc = "log-probabilities, entropies and what their gradient needs, of a chunk of logits";
  op.internal = true;
  op.inputs = with_chunk_options(
      {rows("logits"), dense("ids", {Dtype::i64}), written(dense("log_probs")),
       optional(written(dense("entropy"))), optional(written(dense("statistics"))),
       optional(dense("nll_ids", {Dtype::i64})), optional(written(dense("nll_log_probs"))),
       optional(dense("places", {Dtype::i64})), integer("first_row", 0)});
  op.check = [](const Call& call) {
    check(call);
    require_numbers(call, "log_probs", 1);
    require_numbers(call, "entropy", 1);
    require_numbers(call, "statistics", log_prob_statistics);
    check_second(call, "nll_log_probs");
  };
  op.kernels = {rows_kernel([](const Call& call) { return call.has("entropy"); },
                            [](const Call& call) { return call.has("statistics"); }, "entropy",
                            "first_row", true)};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {logits_sample(e), ids_sample(e), numbers_sample("log_probs", e),
            numbers_sample("entropy", e), numbers_sample("statistics", e, {log_prob_statistics})};
  };
  return op;
}

std::vector<Input> of_chunk(Input logits) {
  return {std::move(logits), dense("ids", {Dtype::i64}), dense("statistics"), dense("dlog_probs"),
          optional(dense("dentropy"))};
}

void check_chunk_gradient(const Call& call) {
  check(call);
  require_numbers(call, "statistics", log_prob_statistics);
  require_numbers(call, "dlog_probs", 1);
  require_numbers(call, "dentropy", 1);
}

bool has_entropy(const Call& call) { return call.has("dentropy"); }

std::vector<Sample> chunk_gradient_example(const Extent& e) {
  return {logits_sample(e), ids_sample(e), numbers_sample("statistics", e, {log_prob_statistics}),
          numbers_sample("dlog_probs", e), numbers_sample("dentropy", e)};
}

Op chunk_gradient_op() {
  Op op;
  op.name = "log_probs_chunk_gradient_";
  op.doc = "the gradient of a chunk's log-probabilities and entropies overwrites its logits";
  op.internal = true;
  op.inputs = of_chunk(written(rows("logits")));
  op.inputs.push_back(optional(dense("nll_ids", {Dtype::i64})));
  op.inputs.push_back(optional(dense("dnll_log_probs")));
  op.inputs = with_chunk_options(std::move(op.inputs));
  op.check = [](const Call& call) {
    check_chunk_gradient(call);
    check_second(call, "dnll_log_probs");
  };
  op.kernels = {
      gradient_kernel(true, has_entropy, "dentropy", {"dlogits_stride", "logits.stride"})};
  op.example = chunk_gradient_example;
  return op;
}

Op kept_gradient_op() {
  Op op;
  op.name = "log_probs_kept_gradient_";
  op.doc = "the same, of logits that are kept, into memory of a chunk";
  op.internal = true;
  op.inputs = of_chunk(rows("logits"));
  op.inputs.push_back(written(rows("dlogits")));
  op.inputs = with_chunk_options(std::move(op.inputs));
  op.check = [](const Call& call) {
    check_chunk_gradient(call);
    require_same_shape(call, "logits", "dlogits");
    require_same_dtype(call, "logits", "dlogits");
  };
  op.kernels = {
      gradient_kernel(false, has_entropy, "dentropy", {"dlogits_stride", "dlogits.stride"})};
  op.example = [](const Extent& e) {
    auto samples = chunk_gradient_example(e);
    samples.push_back({.input = "dlogits", .shape = {e["rows"], e["size"]}});
    return samples;
  };
  return op;
}

const Register forward{forward_op()};
const Register backward{backward_op()};
const Register chunk{chunk_op()};
const Register chunk_gradient{chunk_gradient_op()};
const Register kept_gradient{kept_gradient_op()};

}  // namespace
}  // namespace liger
