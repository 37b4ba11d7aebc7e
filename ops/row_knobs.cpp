#include "ops/row_knobs.h"

#include <algorithm>

#include "base/parts.h"
#include "base/text.h"

namespace liger {

namespace {

constexpr int64_t most_accumulators = 1024;

void add_unless_there(std::vector<Knobs>& list, int64_t threads, int64_t rows) {
  for (const Knobs& knobs : list) {
    if (value_of(knobs, "threads", 0) == threads && value_of(knobs, "rows", 0) == rows) return;
  }
  list.push_back({{"threads", threads}, {"rows", rows}});
}

// Threads of a row so that each has `packs_each` packs: whole teams of 32, or a power of two below
// one; a power of two, too, for a row of more packs than accumulators.
int64_t threads_for(int64_t size, int64_t packs_each) {
  const int64_t threads = parts(packs_of(size), packs_each);
  if (threads <= 32) return power_of_two_from(threads);
  if (packs_of(size) > most_accumulators)
    return std::min(power_of_two_from(threads), most_accumulators);
  return std::min<int64_t>(parts(threads, 32) * 32, most_accumulators);
}

// A block of at least `block` threads, if they can keep their packs: `registers` for each.
void add_candidate(std::vector<Knobs>& list, int64_t size, int64_t packs_each, int64_t block,
                   int64_t registers) {
  const int64_t threads = threads_for(size, packs_each);
  const int64_t rows = std::max<int64_t>(1, block / threads);
  const int64_t packs = parts(packs_of(size), threads);
  // The rest of a thread's share is addresses and temporaries.
  if (registers > 0 && packs * registers + 40 > std::min<int64_t>(65536 / (threads * rows), 255))
    return;
  add_unless_there(list, threads, rows);
}

}  // namespace

int64_t power_of_two_from(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

int64_t packs_of(int64_t size) { return parts(size, 8); }

bool holds(const Call& call, int64_t size, int arrays) {
  return !call.on_host() && size <= (arrays > 1 ? 8192 : 16384);
}

bool holds(const Call& call, std::string_view tensor, int arrays) {
  return holds(call, call[tensor].last_size(), arrays);
}

std::vector<Knobs> row_candidates(const Call& call, int64_t size, int arrays) {
  if (call.on_host()) return {{{"threads", 1}, {"rows", 8}}, {{"threads", 1}, {"rows", 64}}};
  std::vector<Knobs> list;
  for (const int64_t packs_each : {4, 2, 8, 1}) {
    for (const int64_t block : {128, 256}) add_candidate(list, size, packs_each, block, 8 * arrays);
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
  for (const int64_t packs_each : {2, 4, 3, 1}) {
    for (const int64_t block : {64, 128}) add_candidate(list, size, packs_each, block, 8 * arrays);
  }
  if (list.empty()) add_unless_there(list, 512, 1);
  return list;
}

int64_t row_blocks(int64_t rows, const Knobs& knobs) {
  const int64_t of_block = value_of(knobs, "rows", 1);
  return parts(rows, of_block);
}

int64_t partial_rows(const Call& call, int64_t rows, int64_t size) {
  if (call.on_host()) return std::min<int64_t>(rows, 16);
  const int64_t of_multiprocessor =
      std::clamp<int64_t>((8192 + size / 2) / std::max<int64_t>(size, 1), 1, 64);
  return std::min(rows, call.place().multiprocessors * of_multiprocessor);
}

int64_t padded_columns(int64_t size) { return packs_of(size) * 8; }

Dtype arithmetic(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

KernelOf column_sum(std::vector<Partials> matrices, std::string sized_by,
                    std::function<bool(const Call&)> when,
                    std::function<int64_t(const Call&)> partials_of) {
  constexpr size_t most = 3;
  const size_t count = matrices.size();
  const auto columns = [sized_by, matrices, count](const Call& call, size_t i) -> int64_t {
    if (i >= count) return 0;
    return matrices[i].columns ? matrices[i].columns(call) : call[sized_by].last_size();
  };
  if (!partials_of) {
    partials_of = [sized_by](const Call& call) {
      return partial_rows(call, call[sized_by].rows(), call[sized_by].last_size());
    };
  }
  const auto matrix = [matrices](size_t i) { return matrices[std::min(i, matrices.size() - 1)]; };
  return {
      .name = "ColumnSum",
      .source = "norm/column_sum.h",
      .when = std::move(when),
      .spec = [sized_by, matrix, columns](const Call& call) -> Spec {
        return {{"partial", arithmetic(call[sized_by].dtype)},
                {"out", matrix(0).out_dtype(call)},
                {"second_out", matrix(1).out_dtype(call)},
                {"third_out", matrix(2).out_dtype(call)},
                {"columns", columns(call, 0)},
                {"second_columns", columns(call, 1)},
                {"third_columns", columns(call, 2)}};
      },
      // A short row has many partials and few columns: more threads for each of them.
      .candidates = [columns](const Call& call) -> std::vector<Knobs> {
        int64_t longest = 0;
        for (size_t i = 0; i < most; ++i) longest = std::max(longest, columns(call, i));
        return {{{"groups", longest < 4096 ? 128 : 32}}};
      },
      .blocks =
          [columns](const Call& call, const Knobs&) {
            int64_t blocks = 0;
            for (size_t i = 0; i < most; ++i) blocks += parts(columns(call, i), 32);
            return blocks;
          },
      .threads = [](const Knobs& knobs) { return 4 * value_of(knobs, "groups", 1); },
      .arguments = {{"partials", matrix(0).partials},
                    {"out", matrix(0).out},
                    {"second_partials", matrix(1).partials},
                    {"second_out", matrix(1).out},
                    {"third_partials", matrix(2).partials},
                    {"third_out", matrix(2).out},
                    {"partial_rows", std::move(partials_of)}},
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

void require_same_arithmetic(const Call& call, std::string_view first, std::string_view second) {
  const Tensor& a = call[first];
  const Tensor& b = call[second];
  if (!a.defined || !b.defined || arithmetic(a.dtype) == arithmetic(b.dtype)) return;
  call.refuse(
      second, fmt::format("has dtype {}", name_of(b.dtype)),
      fmt::format("float64 where '{}' is, and not where it is {}", first, name_of(a.dtype)));
}

void require_vector(const Call& call, std::string_view vector, std::string_view of) {
  const Tensor& v = call[vector];
  if (!v.defined) return;
  if (v.dims == 1 && v.sizes[0] == call[of].last_size()) return;
  call.refuse(vector, "has shape " + shape_text(v),
              fmt::format("[{}], the last size of '{}'", call[of].last_size(), of));
}

void require_number(const Call& call, std::string_view tensor) {
  if (!call[tensor].defined || call[tensor].count() == 1) return;
  call.refuse(tensor, "has shape " + shape_text(call[tensor]), "one element, [] or [1]");
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
