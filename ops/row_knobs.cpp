#include "ops/row_knobs.h"

#include <algorithm>

#include "base/text.h"

namespace liger {

namespace {

int64_t power_of_two_from(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

int64_t packs_of(int64_t size) { return (size + 7) / 8; }

void add_unless_there(std::vector<Knobs>& list, int64_t threads, int64_t rows) {
  for (const Knobs& knobs : list) {
    if (value_of(knobs, "threads", 0) == threads && value_of(knobs, "rows", 0) == rows) return;
  }
  list.push_back({{"threads", threads}, {"rows", rows}});
}

// Threads so that each has `packs_each` packs; a block of at least `block` threads.
void add_candidate(std::vector<Knobs>& list, int64_t size, int64_t packs_each, int64_t block,
                   int arrays) {
  const int64_t lanes = std::min<int64_t>(power_of_two_from(packs_of(size)), 1024);
  const int64_t rounds = (packs_of(size) + lanes - 1) / lanes;
  const int64_t threads = std::clamp<int64_t>(lanes * rounds / packs_each, 1, 1024);
  const int64_t of_one_thread = lanes / std::min(lanes, power_of_two_from(threads)) * rounds;
  // Eight registers for a held pack; the rest of a thread's share is addresses and temporaries.
  const int64_t registers =
      std::min<int64_t>(65536 / std::max<int64_t>(power_of_two_from(threads), block), 255);
  if (arrays > 0 && of_one_thread * 8 * arrays > registers - 30) return;
  const int64_t power = power_of_two_from(threads);
  add_unless_there(list, power, std::max<int64_t>(1, block / power));
}

}  // namespace

bool holds(const Call& call, std::string_view tensor, int arrays) {
  return !call.on_host() && call[tensor].last_size() <= (arrays > 1 ? 8192 : 16384);
}

std::vector<Knobs> row_candidates(const Call& call, int64_t size, int arrays) {
  if (call.on_host()) return {{{"threads", 1}, {"rows", 8}}, {{"threads", 1}, {"rows", 64}}};
  std::vector<Knobs> list;
  for (const int64_t packs_each : {4, 2, 8, 1}) {
    for (const int64_t block : {128, 256}) add_candidate(list, size, packs_each, block, arrays);
  }
  // A row that is not held is read from memory anyhow: then more threads only leave fewer
  // registers.
  if (arrays == 0)
    std::erase_if(list, [](const Knobs& knobs) { return value_of(knobs, "threads", 0) > 512; });
  if (list.empty()) add_unless_there(list, arrays == 0 ? 512 : 1024, 1);
  return list;
}

std::vector<Knobs> partial_candidates(const Call& call, int64_t size, int arrays) {
  if (call.on_host()) return {{{"threads", 1}, {"rows", 1}}};
  std::vector<Knobs> list;
  if (arrays == 0) return {{{"threads", 512}, {"rows", 1}}, {{"threads", 256}, {"rows", 1}}};
  for (const int64_t packs_each : {2, 4, 1}) {
    for (const int64_t block : {128, 256}) add_candidate(list, size, packs_each, block, arrays);
  }
  if (list.empty()) add_unless_there(list, 512, 1);
  return list;
}

int64_t row_blocks(int64_t rows, const Knobs& knobs) {
  const int64_t of_block = value_of(knobs, "rows", 1);
  return (rows + of_block - 1) / of_block;
}

int64_t partial_rows(const Call& call, int64_t rows, int64_t size) {
  if (call.on_host()) return std::min<int64_t>(rows, 16);
  const int64_t of_multiprocessor =
      std::clamp<int64_t>((8192 + size / 2) / std::max<int64_t>(size, 1), 1, 64);
  return std::min(rows, call.place().multiprocessors * of_multiprocessor);
}

int64_t padded_columns(int64_t size) { return packs_of(size) * 8; }

Dtype arithmetic(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

KernelOf column_sum(std::string partials, std::string out,
                    std::function<Dtype(const Call&)> out_dtype, std::string sized_by,
                    std::function<bool(const Call&)> when) {
  return {
      .name = "ColumnSum",
      .source = "column_sum.h",
      .when = std::move(when),
      .spec = [sized_by, out_dtype](const Call& call) -> Spec {
        return {{"partial", arithmetic(call[sized_by].dtype)},
                {"out", out_dtype(call)},
                {"columns", call[sized_by].last_size()}};
      },
      .candidates = {},
      .blocks = [sized_by](const Call& call,
                           const Knobs&) { return (call[sized_by].last_size() + 31) / 32; },
      .threads = [](const Knobs&) { return int64_t{1024}; },
      .arguments = {std::move(partials), std::move(out),
                    [sized_by](const Call& call) {
                      return partial_rows(call, call[sized_by].rows(), call[sized_by].last_size());
                    }},
  };
}

void require_same_shape(const Call& call, std::string_view first, std::string_view second) {
  const Tensor& a = call[first];
  const Tensor& b = call[second];
  if (!a.defined || !b.defined) return;
  if (a.dims == b.dims && std::equal(a.sizes, a.sizes + a.dims, b.sizes)) return;
  call.refuse(second, "has shape " + shape_text(b),
              fmt::format("the shape of '{}', {}", first, shape_text(a)));
}

void require_same_dtype(const Call& call, std::string_view first, std::string_view second) {
  const Tensor& a = call[first];
  const Tensor& b = call[second];
  if (!a.defined || !b.defined || a.dtype == b.dtype) return;
  call.refuse(second, fmt::format("has dtype {}", name_of(b.dtype)),
              fmt::format("the dtype of '{}', {}", first, name_of(a.dtype)));
}

void require_vector(const Call& call, std::string_view vector, std::string_view of) {
  const Tensor& v = call[vector];
  if (!v.defined) return;
  if (v.dims == 1 && v.sizes[0] == call[of].last_size()) return;
  call.refuse(vector, "has shape " + shape_text(v),
              fmt::format("[{}], the last size of '{}'", call[of].last_size(), of));
}

void require_eps(const Call& call) {
  const double eps = call.real("eps");
  if (!(eps >= 0.0)) call.refuse("eps", fmt::format("is {}", eps), "0 or more");
}

void require_dims(const Call& call, std::string_view tensor, int dims, std::string_view meaning) {
  if (!call[tensor].defined || call[tensor].dims == dims) return;
  call.refuse(tensor, "has shape " + shape_text(call[tensor]),
              fmt::format("{} dimensions {}", dims, meaning));
}

}  // namespace liger
