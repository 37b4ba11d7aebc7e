#include "ops/rope/qk_norm.h"

#include <algorithm>

#include "ops/norm/norm.h"
#include "ops/rope/rotary.h"

namespace liger {

namespace {

// Elements of q, or of k, that are normed together.
int64_t normed_size(const QkNormForm& form, const Tensor& x) {
  return form.full ? x.sizes[1] * x.last_size() : x.last_size();
}

int64_t partials_of(const QkNormForm& form, const Call& call) {
  const Tensor& q = call["q"];
  if (!form.full) return partial_rows(call, q.rows(), q.last_size());
  const int64_t longest = std::max(normed_size(form, q), normed_size(form, call["k"]));
  return partial_rows(call, q.sizes[0] * q.sizes[2], longest);
}

// What forward and backward are specialised for beside their knobs.
Spec head_spec(const Call& call) {
  return {{"x", call["q"].dtype},
          {"weight", call["weight_q"].dtype},
          {"angle", call["cos"].dtype},
          {"round_early", round_early(call)},
          {"head_size", call["q"].last_size()},
          {"rotary", call["cos"].last_size()},
          {"q_heads", call["q"].sizes[1]},
          {"k_heads", call["k"].sizes[1]},
          {"align_bytes", int64_t{call.align_bytes()}}};
}

void check(const QkNormForm& form, const Call& call) {
  check_rotary(call, "q", "k");
  for (const auto& [tensor, weight] : {std::pair{"q", "weight_q"}, {"k", "weight_k"}}) {
    const Tensor& x = call[tensor];
    if (x.sizes[1] < 1) call.refuse(tensor, "has shape " + shape_text(x), "1 head or more");
    if (x.rows() >= int64_t{1} << 31) {
      call.refuse(tensor, "has shape " + shape_text(x), "less than 2^31 heads of all tokens");
    }
    const int64_t size = normed_size(form, x);
    if (size > form.most_elements) {
      call.refuse(tensor, "has shape " + shape_text(x),
                  (form.full ? "heads that have together up to " : "a head size up to ") +
                      std::to_string(form.most_elements));
    }
    const Tensor& w = call[weight];
    if (w.dims != 1 || w.sizes[0] != size) {
      call.refuse(weight, "has shape " + shape_text(w),
                  "[" + std::to_string(size) + "], " +
                      (form.full ? "all heads of '" : "the last size of '") + tensor + "'");
    }
  }
  require_same_dtype(call, "weight_q", "weight_k");
  require_eps(call);
}

bool has_tokens(const Call& call) { return call["q"].rows() > 0; }

KernelOf forward_kernel(const QkNormForm& form) {
  std::vector<Argument> arguments = {"q",
                                     "k",
                                     {"q_weight", "weight_q"},
                                     {"k_weight", "weight_k"},
                                     "cos",
                                     "sin",
                                     "q_out",
                                     "k_out",
                                     {"q_rstd", "rstd_q"},
                                     {"k_rstd", "rstd_k"},
                                     {"batch", "q.size0"},
                                     {"tokens", "q.size2"}};
  for (const char* tensor : {"q", "k", "q_out", "k_out"})
    add_head_strides(arguments, tensor, tensor);
  add_angle_strides(arguments);
  arguments.insert(arguments.end(), {"eps", "offset"});
  return {
      .name = form.kernel + "Forward",
      .source = form.source,
      .when = has_tokens,
      .spec = head_spec,
      .candidates = form.forward_candidates,
      .blocks = form.forward_blocks,
      .arguments = std::move(arguments),
  };
}

bool wants_dx(const Call& call) { return call.wants_grad(0) || call.wants_grad(1); }
bool wants_dweight(const Call& call) { return call.wants_grad(2) || call.wants_grad(3); }

KernelOf backward_kernel(const QkNormForm& form) {
  std::vector<Argument> arguments = {
      "dq_out",
      "dk_out",
      "q",
      "k",
      {"q_weight", "weight_q"},
      {"k_weight", "weight_k"},
      "cos",
      "sin",
      {"q_rstd", "rstd_q"},
      {"k_rstd", "rstd_k"},
      "dq",
      "dk",
      {"q_partials", "partials_q"},
      {"k_partials", "partials_k"},
      {"batch", "q.size0"},
      {"tokens", "q.size2"},
      {"partial_rows", [form](const Call& call) { return partials_of(form, call); }}};
  for (const char* tensor : {"dq_out", "dk_out", "q", "k", "dq", "dk"})
    add_head_strides(arguments, tensor, tensor);
  add_angle_strides(arguments);
  arguments.emplace_back("offset");
  return {
      .name = form.kernel + "Backward",
      .source = form.source,
      .when = has_tokens,
      .spec =
          [](const Call& call) {
            Spec spec = head_spec(call);
            spec.insert(spec.end(),
                        {{"want_dx", wants_dx(call)}, {"want_dweight", wants_dweight(call)}});
            return spec;
          },
      .candidates = form.backward_candidates,
      .blocks = [form](
                    const Call& call,
                    const Knobs& knobs) { return 2 * row_blocks(partials_of(form, call), knobs); },
      .arguments = std::move(arguments),
  };
}

Output made_like(std::string name, std::string of, bool (*when)(const Call&), bool keeps_layout) {
  return {std::move(name),
          [of, when, keeps_layout](const Call& call) {
            if (when && !when(call)) return empty();
            return keeps_layout ? preserve(of) : like(of);
          },
          [of](const Call& call) { return call[of].dtype; }};
}

// One number for what is normed together.
Output rstd_of(const QkNormForm& form, std::string name, std::string of) {
  const Shape shape = form.full ? sized({size_of(of, 0), 1, size_of(of, 2), 1}) : rows_of(of);
  return {std::move(name), [shape](const Call&) { return shape; },
          [of](const Call& call) { return arithmetic(call[of].dtype); }, false};
}

Temporary partials(const QkNormForm& form, std::string name, std::string of) {
  return {std::move(name), [form, of](const Call& call) -> int64_t {
            if (!wants_dweight(call)) return 0;
            const Tensor& x = call[of];
            return partials_of(form, call) * padded_columns(normed_size(form, x)) *
                   size_bytes(arithmetic(x.dtype));
          }};
}

Partials sum_of(const QkNormForm& form, std::string partials, std::string weight, std::string of) {
  return {std::move(partials), "d" + weight,
          [weight](const Call& call) { return call[weight].dtype; },
          [form, of](const Call& call) { return normed_size(form, call[of]); }};
}

// As many key heads as most models have.
int64_t key_heads(int64_t heads) { return heads > 8 ? 8 : (heads + 1) / 2; }

std::vector<Sample> samples(const QkNormForm& form, const Extent& e) {
  const int64_t heads = e["inner"];
  const auto weight = [&](int64_t count) { return form.full ? count * e["size"] : e["size"]; };
  return {
      {.input = "q", .shape = {1, heads, e["rows"], e["size"]}, .heads_second = true},
      {.input = "k", .shape = {1, key_heads(heads), e["rows"], e["size"]}, .heads_second = true},
      {.input = "weight_q", .shape = {weight(heads)}},
      {.input = "weight_k", .shape = {weight(key_heads(heads))}},
      {.input = "cos", .shape = {1, e["rows"], e["size"]}},
      {.input = "sin", .shape = {1, e["rows"], e["size"]}}};
}

std::vector<Sample> backward_samples(const QkNormForm& form, const Extent& e) {
  const int64_t rows = e["rows"];
  const auto rstd = [&](int64_t heads) -> std::vector<int64_t> {
    if (form.full) return {1, 1, rows, 1};
    return {1, heads, rows};
  };
  std::vector<Sample> list = samples(form, e);
  const std::vector<int64_t> q = list[0].shape;
  const std::vector<int64_t> k = list[1].shape;
  list.insert(list.begin(), {{.input = "dq_out", .shape = q, .heads_second = true},
                             {.input = "dk_out", .shape = k, .heads_second = true}});
  list.insert(list.end(), {{.input = "rstd_q", .shape = rstd(q[1]), .dtype = "arithmetic"},
                           {.input = "rstd_k", .shape = rstd(k[1]), .dtype = "arithmetic"},
                           {.input = "eps", .value = 1e-6},
                           {.input = "offset", .value = 0.0},
                           {.input = "casting_mode", .value = 0},
                           {.input = "output_mask", .value = 15}});
  return list;
}

}  // namespace

Op norm_and_turn(const QkNormForm& form) {
  return {
      .name = form.name,
      .doc = form.doc,
      .inputs = {strided("q"), strided("k"), dense("weight_q"), dense("weight_k"),
                 of_tokens(strided("cos")), of_tokens(strided("sin")), real("eps", "1e-06"),
                 real("offset", "0.0"), casting_mode()},
      .outputs = {made_like("q_out", "q", nullptr, true), made_like("k_out", "k", nullptr, true),
                  rstd_of(form, "rstd_q", "q"), rstd_of(form, "rstd_k", "k")},
      .check = [form](const Call& call) { check(form, call); },
      .kernels = {forward_kernel(form)},
      .gradient = {.backward = form.name + "_backward",
                   .saved = {"q", "k", "weight_q", "weight_k", "cos", "sin", "rstd_q", "rstd_k"},
                   .of = {{"q", "dq", {"q_out"}},
                          {"k", "dk", {"k_out"}},
                          {"weight_q", "dweight_q", {"q_out"}},
                          {"weight_k", "dweight_k", {"k_out"}}}},
      .sharding = form.sharding,
      .example = [form](const Extent& e) { return samples(form, e); },
      .bench = form.bench,
  };
}

Op norm_and_turn_back(const QkNormForm& form) {
  return {
      .name = form.name + "_backward",
      .doc = "gradients of " + form.name +
             ": those of the norm, of what the transposed rotation gives",
      .internal = true,
      .inputs = {strided("dq_out"), strided("dk_out"), strided("q"), strided("k"),
                 dense("weight_q"), dense("weight_k"), of_tokens(strided("cos")),
                 of_tokens(strided("sin")), dense("rstd_q"), dense("rstd_k"), real("eps", "1e-06"),
                 real("offset", "0.0"), casting_mode(), mask("output_mask", 4)},
      .outputs = {made_like("dq", "q", wants_dx, true), made_like("dk", "k", wants_dx, true),
                  made_like("dweight_q", "weight_q", wants_dweight, false),
                  made_like("dweight_k", "weight_k", wants_dweight, false)},
      .temporaries = {partials(form, "partials_q", "q"), partials(form, "partials_k", "k")},
      .check =
          [form](const Call& call) {
            check(form, call);
            for (const auto& [x, dy] : {std::pair{"q", "dq_out"}, {"k", "dk_out"}}) {
              require_same_shape(call, x, dy);
              require_same_dtype(call, x, dy);
            }
          },
      .kernels = {backward_kernel(form),
                  column_sum({sum_of(form, "partials_q", "weight_q", "q"),
                              sum_of(form, "partials_k", "weight_k", "k")},
                             "q", wants_dweight,
                             [form](const Call& call) { return partials_of(form, call); })},
      .sharding = form.sharding,
      .example = [form](const Extent& e) { return backward_samples(form, e); },
  };
}

}  // namespace liger
