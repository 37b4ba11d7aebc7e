#include "ops/rope/rotary.h"

#include <algorithm>

#include "base/parts.h"
#include "ops/row_knobs.h"

namespace liger {

namespace {

const TurnedHeads forward_heads = {"q", "k", "q_out", "k_out", false};
const TurnedHeads backward_heads = {"dq_out", "dk_out", "dq", "dk", true};

std::string text(int64_t number) { return std::to_string(number); }

// Head sizes come with q and k; a missing k has no heads.
Spec spec_of(const RotaryForm& form, const TurnedHeads& heads, const Call& call) {
  const Tensor& q = call[heads.q];
  Spec spec = {{"x", q.dtype},
               {"inverse", heads.inverse},
               {"interleaved", form.interleaved(call)},
               {"head_size", q.last_size()},
               {"rotary", form.rotary(call)},
               {"q_heads", q.sizes[1]},
               {"k_heads", call.has(heads.k) ? call[heads.k].sizes[1] : 0},
               {"align_bytes", int64_t{call.align_bytes()}}};
  const Spec of_table = form.table_fields(call);
  spec.insert(spec.end(), of_table.begin(), of_table.end());
  return spec;
}

// {threads, tokens, heads}: as many tokens as give each thread one place of eight elements, or of
// twice as many where halves turn with one another.
std::vector<Knobs> candidates_of(const RotaryForm& form, const TurnedHeads& heads,
                                 const Call& call) {
  const int64_t count = std::max<int64_t>(call[heads.q].sizes[1], 1);
  if (call.on_host()) return {{{"threads", 1}, {"tokens", 4}, {"heads", count}}};
  const int64_t of_place = form.interleaved(call) ? 8 : 16;
  const int64_t places = std::max<int64_t>(form.rotary(call) / of_place, 1);
  std::vector<Knobs> list;
  for (const auto& [threads, most] :
       {std::pair{256, 8}, {128, 8}, {256, 4}, {128, 4}, {256, 16}, {256, 32}, {64, 8}}) {
    list.push_back({{"threads", threads},
                    {"tokens", std::max<int64_t>(threads / places, 1)},
                    {"heads", std::min<int64_t>(most, count)}});
  }
  return list;
}

KernelOf kernel_of(const RotaryForm& form, const TurnedHeads& heads) {
  std::vector<Argument> arguments = {{"heads.q", heads.q},
                                     {"heads.k", heads.k},
                                     {"heads.q_out", heads.q_out},
                                     {"heads.k_out", heads.k_out},
                                     {"heads.batch", heads.q + ".size0"},
                                     {"heads.tokens", heads.q + ".size2"}};
  for (const auto& [member, tensor] : {std::pair{"heads.q", heads.q},
                                       {"heads.k", heads.k},
                                       {"heads.q_out", heads.q_out},
                                       {"heads.k_out", heads.k_out}}) {
    add_head_strides(arguments, member, tensor);
  }
  arguments.insert(arguments.end(), form.table_arguments.begin(), form.table_arguments.end());
  return {
      .name = form.kernel,
      .source = form.source,
      .spec = [form, heads](const Call& call) { return spec_of(form, heads, call); },
      .candidates = [form, heads](const Call& call) { return candidates_of(form, heads, call); },
      .blocks =
          [heads](const Call& call, const Knobs& knobs) {
            const Tensor& q = call[heads.q];
            const int64_t of_block = value_of(knobs, "heads", 1);
            return parts(q.sizes[0] * q.sizes[2], value_of(knobs, "tokens", 1)) *
                   (parts(q.sizes[1], of_block) +
                    (call.has(heads.k) ? parts(call[heads.k].sizes[1], of_block) : 0));
          },
      .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
      .arguments = std::move(arguments),
  };
}

Output turned(std::string name, std::string of, std::string q) {
  return {std::move(name), [of](const Call& call) { return call.has(of) ? preserve(of) : empty(); },
          [q](const Call& call) { return call[q].dtype; }};
}

// What the op and its backward have in common.
Op turning_of(const RotaryForm& form, const TurnedHeads& heads) {
  Op op{
      .inputs = {strided(heads.q), optional(strided(heads.k))},
      .outputs = {turned(heads.q_out, heads.q, heads.q), turned(heads.k_out, heads.k, heads.q)},
      .check =
          [form, heads](const Call& call) {
            check_heads(call, heads.q, heads.k);
            form.check(call, heads);
          },
      .kernels = {kernel_of(form, heads)},
      .sharding = Sharding::heads,
  };
  op.inputs.insert(op.inputs.end(), form.tables.begin(), form.tables.end());
  op.inputs.insert(op.inputs.end(), form.options.begin(), form.options.end());
  return op;
}

std::vector<Sample> samples_of(const RotaryForm& form, const TurnedHeads& heads, const Extent& e) {
  const int64_t count = std::max<int64_t>(e["inner"], 1);
  std::vector<Sample> list = {
      {.input = heads.q, .shape = {1, count, e["rows"], e["size"]}, .heads_second = true},
      {.input = heads.k, .shape = {1, (count + 3) / 4, e["rows"], e["size"]}, .heads_second = true},
  };
  for (const Sample& sample : form.table_samples(e)) list.push_back(sample);
  return list;
}

}  // namespace

Op turning(const RotaryForm& form) {
  Op op = turning_of(form, forward_heads);
  op.name = form.name;
  op.doc = form.doc;
  op.gradient = {.backward = form.name + "_backward",
                 .of = {{"q", "dq", {"q_out"}}, {"k", "dk", {"k_out"}}}};
  for (const Input& table : form.tables) op.gradient.saved.push_back(table.name);
  op.example = [form](const Extent& e) { return samples_of(form, forward_heads, e); };
  op.bench = form.bench;
  return op;
}

Op turning_back(const RotaryForm& form) {
  Op op = turning_of(form, backward_heads);
  op.name = form.name + "_backward";
  op.doc = "gradients of " + form.name + ": the transposed rotation";
  op.internal = true;
  op.inputs.push_back(mask("output_mask", 2));
  op.example = [form](const Extent& e) {
    std::vector<Sample> list = samples_of(form, backward_heads, e);
    // A backward's options have no defaults, for the mask after them has none.
    for (const Input& option : form.options) {
      const bool given = std::any_of(list.begin(), list.end(), [&](const Sample& sample) {
        return sample.input == option.name;
      });
      if (!given) list.push_back({.input = option.name, .value = 0});
    }
    list.push_back({.input = "output_mask", .value = 3});
    return list;
  };
  return op;
}

void check_heads(const Call& call, std::string_view q, std::string_view k) {
  require_dims(call, q, 4, "[batch, heads, tokens, head size]");
  require_dims(call, k, 4, "[batch, heads, tokens, head size]");
  require_same_dtype(call, q, k);
  if (!call.has(k)) return;
  const Tensor& x = call[q];
  const Tensor& y = call[k];
  if (y.sizes[0] != x.sizes[0] || y.sizes[2] != x.sizes[2] || y.sizes[3] != x.sizes[3]) {
    call.refuse(k, "has shape " + shape_text(y), "q's shape but for the heads: " + shape_text(x));
  }
}

void check_table(const Call& call, std::string_view table, std::string_view q, int dims,
                 int columns_of_angle) {
  const Tensor& x = call[q];
  const Tensor& t = call[table];
  const int batch_dim = dims - 3;
  if (t.sizes[batch_dim] != 1 && t.sizes[batch_dim] != x.sizes[0]) {
    call.refuse(table, "has batch " + text(t.sizes[batch_dim]), "1 or " + text(x.sizes[0]));
  }
  if (t.sizes[batch_dim + 1] != x.sizes[2]) {
    call.refuse(table, "has " + text(t.sizes[batch_dim + 1]) + " tokens", text(x.sizes[2]));
  }
  check_rotary_size(call, table, q, columns_of_angle);
}

void check_rotary_size(const Call& call, std::string_view table, std::string_view q,
                       int columns_of_angle) {
  const int64_t head_size = call[q].sizes[3];
  const int64_t angles = call[table].last_size();
  const int64_t rotary = angles * columns_of_angle;
  if (rotary >= 2 && rotary % 2 == 0 && rotary <= head_size) return;
  call.refuse(table, "has last size " + text(angles),
              columns_of_angle == 1 ? "an even number from 2 to the head size " + text(head_size)
                                    : "1 to " + text(head_size / 2) + ", half of the head size");
}

void check_rotary(const Call& call, std::string_view q, std::string_view k) {
  check_heads(call, q, k);
  require_dims(call, "cos", 3, "[1 or batch, tokens, rotary size]");
  require_same_shape(call, "cos", "sin");
  require_same_dtype(call, "cos", "sin");
  check_table(call, "cos", q);
}

void add_head_strides(std::vector<Argument>& arguments, const std::string& member,
                      const std::string& tensor) {
  for (const auto& [field, stride] :
       {std::pair{".batch", ".stride0"}, {".head", ".stride1"}, {".token", ".stride2"}}) {
    arguments.emplace_back(member + "_strides" + field, tensor + stride);
  }
}

void add_table_strides(std::vector<Argument>& arguments, const std::string& table, int batch_dim) {
  for (int dim = 0; dim < batch_dim + 2; ++dim) {
    arguments.emplace_back(table + "_strides[" + text(dim) + "]",
                           [table, dim, batch_dim](const Call& call) -> int64_t {
                             const Tensor& t = call[table];
                             return dim == batch_dim && t.sizes[dim] == 1 ? 0 : t.strides[dim];
                           });
  }
}

void add_angle_strides(std::vector<Argument>& arguments, int batch_dim) {
  add_table_strides(arguments, "cos", batch_dim);
  add_table_strides(arguments, "sin", batch_dim);
}

std::vector<Sample> angle_samples(const std::vector<int64_t>& shape) {
  return {{.input = "cos", .shape = shape}, {.input = "sin", .shape = shape}};
}

}  // namespace liger
